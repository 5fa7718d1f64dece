from __future__ import annotations

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.serve.features.features import Cut, Packet
from openvla.serve.features.kept import Kept
from openvla.serve.guard.refusals import Refusal

CUTS = {"projector": Cut(4, 3, "f")}
WHOLE = np.arange(12, dtype=np.uint16).reshape(4, 3)


def whole(sequence: int = 0, values: np.ndarray = WHOLE, cut: str = "projector", fingerprint: str = "f") -> Packet:
    return Packet(cut, fingerprint, values, sequence)


def part(sequence: int, base: int, rows: list[int]) -> Packet:
    return Packet("projector", "f", np.full((len(rows), 3), 99, np.uint16), sequence, np.array(rows, np.int64), base)


def test_changes_are_laid_over_what_came_before() -> None:
    kept = Kept(CUTS, 1000)
    kept.whole(whole(0), "a")
    assert kept.whole(part(1, 0, [2]), "a")[:, 0].tolist() == [0, 3, 99, 9]
    assert kept.whole(part(2, 1, [0]), "a")[:, 0].tolist() == [99, 3, 99, 9]
    assert kept.whole(part(3, 2, []), "a")[:, 0].tolist() == [99, 3, 99, 9]
    assert WHOLE[2, 0] == 6


@pytest.mark.parametrize("lane", ["b", None])
def test_changes_on_nothing_are_asked_for_again(lane: str | None) -> None:
    kept = Kept(CUTS, 1000)
    kept.whole(whole(0), "a")
    with pytest.raises(Refusal, match="before number 1 are not here; send all tokens"):
        kept.whole(part(1, 0, [2]), lane)


def test_a_lost_message_is_noticed() -> None:
    kept = Kept(CUTS, 1000)
    kept.whole(whole(0), "a")
    with pytest.raises(Refusal, match="send all tokens"):
        kept.whole(part(2, 1, [2]), "a")
    assert kept.whole(part(1, 0, [2]), "a")[2, 0] == 99


def test_memory_is_bounded_and_the_silent_are_forgotten_first() -> None:
    kept = Kept(CUTS, 2 * WHOLE.nbytes)
    for lane in "abca":
        kept.whole(whole(0), lane)
    kept.whole(part(1, 0, []), "a")
    kept.whole(part(1, 0, []), "c")
    with pytest.raises(Refusal, match="send all tokens"):
        kept.whole(part(1, 0, []), "b")
    kept.forget("c")
    with pytest.raises(Refusal, match="send all tokens"):
        kept.whole(part(2, 1, []), "c")


@pytest.mark.parametrize(
    ("packet", "match"),
    [
        (whole(cut="encoders"), "unknown cut 'encoders'"),
        (whole(fingerprint="g"), r"come from other weights \(g\) than this policy's encoders \(f\)"),
        (whole(values=WHOLE[:3]), r"the shape \(3, 3\); behind the projector they are \(4, 3\)"),
        (whole(values=WHOLE.T), "have 4 channels; behind the projector there are 3"),
        (part(1, 0, [4]), "names the place 4; there are 4, from 0"),
    ],
)
def test_what_does_not_fit_the_policy_is_refused_and_forgotten(packet: Packet, match: str) -> None:
    kept = Kept(CUTS, 1000)
    kept.whole(whole(0), "a")
    with pytest.raises(InputError, match=match):
        kept.whole(packet, "a")
    kept.whole(part(1, 0, []), "a")


def test_a_policy_of_pictures_takes_no_features() -> None:
    with pytest.raises(Refusal, match="this policy takes no features; send 'image'"):
        Kept({}, 1000).whole(whole(), "a")
