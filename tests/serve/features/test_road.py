from __future__ import annotations

import pytest

from openvla.serve.features.features import Cut
from openvla.serve.features.road import Road, Step, Way, size_of

IMAGE, SMALL, LARGE = Way(), Way("projector", "int8"), Way("projector", "bf16")
SIZES = {IMAGE: 20_000, SMALL: 100_000, LARGE: 200_000}
EDGE_S = {IMAGE: 0.0, SMALL: 0.02, LARGE: 0.02}
SERVER_S = {IMAGE: 0.12, SMALL: 0.05, LARGE: 0.05}


def driven(bits_per_s: float, rtt_s: float, steps: int = 20, road: Road | None = None) -> tuple[Road, list[Way]]:
    """A road that was driven on a link of exactly these properties."""
    road = road or Road()
    road.learn_rtt(rtt_s)
    for way, size in SIZES.items():
        road.expect(way, size)
    chosen: list[Way] = []
    for _ in range(steps):
        way = road.choose(SIZES)
        chosen.append(way)
        exchange_s = rtt_s + 8 * SIZES[way] / bits_per_s + SERVER_S[way]
        road.learn(Step(way, SIZES[way], EDGE_S[way], exchange_s, SERVER_S[way]))
    return road, chosen


def best(bits_per_s: float) -> Way:
    """The oracle."""
    return min(SIZES, key=lambda way: EDGE_S[way] + 8 * SIZES[way] / bits_per_s + SERVER_S[way])


@pytest.mark.parametrize("bits_per_s", [1e6, 3e6, 1e8, 1e9])
@pytest.mark.parametrize("rtt_s", [0.001, 0.1])
def test_the_fastest_way_is_found(bits_per_s: float, rtt_s: float) -> None:
    road, chosen = driven(bits_per_s, rtt_s)
    assert road.cost(chosen[-1]) <= road.cost(best(bits_per_s)) / 0.85
    assert len(set(chosen[-8:])) == 1
    assert road.s_per_byte == pytest.approx(8 / bits_per_s, rel=0.01)


def test_a_link_that_gets_slow_is_left_for_the_picture() -> None:
    road, chosen = driven(1e9, 0.001)
    assert chosen[-1] != IMAGE
    assert driven(1e6, 0.001, road=road)[1][-1] == IMAGE


def test_small_gains_change_nothing() -> None:
    road = Road()
    road.learn(Step(IMAGE, 1000, 0.0, 0.100, 0.100))
    assert road.choose([IMAGE]) == IMAGE
    road.learn(Step(SMALL, 1000, 0.0, 0.095, 0.095))
    assert road.choose([IMAGE, SMALL]) == IMAGE
    assert road.choose([SMALL]) == SMALL


def test_sizes_of_whole_features() -> None:
    assert size_of(Cut(256, 4096, ""), "bf16") == 2_097_152
    assert size_of(Cut(256, 2176, ""), "int8") == 558_080
