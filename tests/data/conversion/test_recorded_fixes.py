"""The fixes on data whose action a record makes of raw columns: judged by the record, written under the raw names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openvla.data.conversion.acting import Acting, Place
from openvla.data.conversion.clean import CleanedSource
from openvla.data.conversion.convert import Conversion, convert
from openvla.data.doctor.examine import diagnose
from openvla.data.episode import Episode, build_episode
from openvla.data.formats.detect import open_source
from openvla.data.formats.iterator import IteratorSource
from openvla.data.registry.columns import Changed, Steps, binarized, clipped, inverted, joined
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord, end_effector
from openvla.data.registry.trajectory import without_first
from openvla.data.standardize import StandardSteps, standardize
from openvla.errors import DataError

RAW = DataRecord(
    images={"primary": "observation|front"},
    columns=("cmd|motion", inverted(clipped("cmd|grip"))),
    proprio=("observation|joints",),
    language="said",
    action=end_effector(control_hz=10),
    name="raw",
)


def rotated(steps: Steps) -> NDArray[Any]:
    return steps["cmd|motion"][:, ::-1]


def squared(steps: Steps) -> NDArray[Any]:
    return steps["cmd|motion"] ** 2


def unknown(steps: Steps) -> NDArray[Any]:
    return steps["cmd|motion"] * np.nan


def gripper(steps: Steps) -> NDArray[Any]:
    return steps["cmd|grip"][:, None]


def first_two(steps: Steps) -> NDArray[Any]:
    return steps["cmd|motion"][:, :2]


def halved(values: NDArray[Any]) -> NDArray[Any]:
    return values / 2


def raw(motion: Sequence[float], grip: Sequence[float], said: str = "lift it", **more: Any) -> Episode:
    """An episode whose six motions are all `motion`; `action` is there, and means nothing."""
    count = len(motion)
    steps: dict[str, Any] = {
        "observation|front": np.zeros((count, 8, 8, 3), np.uint8),
        "observation|joints": np.arange(count, dtype=np.float32)[:, None],
        "cmd|motion": np.repeat(np.asarray(motion, np.float32)[:, None], 6, axis=1),
        "cmd|grip": np.asarray(grip, np.float32),
        "action": np.zeros((count, 2), np.float32),
        "said": [said] * count,
    }
    return build_episode(steps | more, image_format="png", source="episode 0")


def mended(episodes: Sequence[Episode], *fixes: str, record: DataRecord = RAW) -> list[Episode]:
    return list(CleanedSource(IteratorSource(episodes), fixes, record=record).episodes())


def seen(episode: Episode, record: DataRecord = RAW) -> StandardSteps:
    return standardize(record, episode.steps)


def test_steps_are_dropped_that_do_nothing_by_the_record() -> None:
    [episode] = mended([raw([1, 0, 0, 2, 0], [0, 0, 1, 1, 1])], "strip-noops")
    assert episode.steps["observation|joints"].ravel().tolist() == [0, 2, 3]
    assert episode.steps["cmd|grip"].tolist() == [0, 1, 1]


def test_what_the_record_leaves_out_stays_for_it_to_leave_out() -> None:
    record = dataclasses.replace(RAW, before=without_first)
    [episode] = mended([raw([0, 1, 0, 2], [0, 0, 0, 0])], "strip-noops", record=record)
    assert episode.steps["observation|joints"].ravel().tolist() == [0, 1, 3]
    assert seen(episode, record)["action"][:, 0].tolist() == [1, 2]
    assert mended([raw([1, 0, 0], [0, 0, 0])], "strip-noops", record=record) == []


def test_an_episode_of_which_the_record_keeps_nothing_is_dropped() -> None:
    record = dataclasses.replace(RAW, columns=(unknown, "cmd|grip"))
    assert mended([raw([1, 2], [0, 0])], "drop-nan", record=record) == []


def test_nan_that_only_the_record_looks_at_goes() -> None:
    [episode] = mended([raw([1, np.nan, 2], [0, 0, 0])], "drop-nan")
    assert episode.steps["cmd|motion"][:, 0].tolist() == [1, 2]


def test_words_are_looked_for_where_the_record_has_them() -> None:
    silent, loud = raw([1], [0], said=" "), raw([2], [0])
    assert mended([silent, loud], "drop-unlabelled")[0].steps["cmd|motion"][0, 0] == 2
    assert [seen(e)["language_instruction"][0] for e in mended([silent, loud], "label=go, slowly")] == [
        "go, slowly",
        "lift it",
    ]


def test_code_points_are_no_place_for_words() -> None:
    record = dataclasses.replace(RAW, language="codes")
    episode = raw([1], [0], codes=np.array([[104, 105, 0]], np.int32))
    with pytest.raises(DataError, match="episode 0 has no text that the instruction stands in"):
        mended([episode], "label=go", record=record)


def test_resampling_adds_up_the_raw_motion_and_takes_the_last_gripper() -> None:
    [episode] = mended([raw([1, 2, 3, 4, 5], [0, 1, 1, 0, 1])], "resample=5hz")
    assert seen(episode)["action"][:, 0].tolist() == [3, 7, 5]
    assert seen(episode)["action"][:, 6].tolist() == [0, 1, 0]
    assert episode.steps["observation|joints"].ravel().tolist() == [0, 2, 4]
    [episode] = mended([raw([1, 2, 3, 4, 5], [0, 1, 1, 0, 1])], "resample-absolute=5hz")
    assert seen(episode)["action"][:, 0].tolist() == [2, 4, 5]


def test_resampling_follows_a_function_of_the_record_where_that_adds_up_and_is_refused_where_not() -> None:
    linear = dataclasses.replace(RAW, columns=(rotated, "cmd|grip"))
    [episode] = mended([raw([1, 2, 3, 4], [0] * 4)], "resample=5hz", record=linear)
    assert seen(episode, linear)["action"][:, 0].tolist() == [3, 7]
    bent = dataclasses.replace(RAW, columns=(squared, "cmd|grip"))
    with pytest.raises(DataError, match=r"'raw' makes \[9, .*\] of the joined step 0, whose steps together are \[5, "):
        mended([raw([1, 2], [0, 0])], "resample=5hz", record=bent)


def test_reached_motion_of_a_published_set_adds_up_too(shared: Path) -> None:
    record = find_record("bridge_dataset")
    source = open_source(shared / "data" / "bridge_dataset")
    cleaned = CleanedSource(source, ["resample=2.5hz"], record=record)
    before, after = (next(iter(each.episodes("val"))) for each in (source, cleaned))
    slow, fast = standardize(record, after.steps)["action"], standardize(record, before.steps)["action"]
    assert len(after) == 5
    assert slow[:, :6] == pytest.approx(fast[1:7, :6].reshape(3, 2, 6).sum(axis=1), abs=1e-5)


@pytest.mark.parametrize(("lowest", "turned"), [(0.0, [1, 0]), (-1.0, [1, 0])])
def test_the_raw_gripper_is_turned_round(lowest: float, turned: list[float]) -> None:
    record = dataclasses.replace(RAW, columns=("cmd|motion", binarized("cmd|grip"))) if lowest == 0 else RAW
    episodes = [raw([1, 1], [lowest, 1.0])]
    was = seen(episodes[0], record)["action"][:, 6].tolist()
    [episode] = mended(episodes, "invert-gripper", record=record)
    assert seen(episode, record)["action"][:, 6].tolist() == was[::-1]


def test_an_episode_of_which_the_record_keeps_nothing_says_nothing_of_the_grippers_range() -> None:
    record = dataclasses.replace(RAW, before=without_first)
    [episode] = mended([raw([1], [1])], "invert-gripper", record=record)
    assert episode.steps["cmd|grip"].tolist() == [0]


def test_a_gripper_that_is_computed_is_turned_round_in_the_record() -> None:
    record = dataclasses.replace(RAW, columns=("cmd|motion", gripper))
    with pytest.raises(DataError, match=r"the record computes the gripper; turn it round there, with inverted\(\)"):
        mended([raw([1], [1])], "invert-gripper", record=record)
    record = dataclasses.replace(RAW, columns=("cmd|motion", Changed(halved, "cmd|grip")))
    with pytest.raises(DataError, match="the record bends the gripper"):
        mended([raw([1, 1], [0, 1])], "invert-gripper", record=record)


def test_each_dimension_is_found_among_the_raw_columns() -> None:
    columns = (joined("cmd|motion[:3]", first_two), "cmd|motion[-1:]", "cmd|grip")
    found = Acting(dataclasses.replace(RAW, columns=columns)).places(raw([1], [1]))
    motion = [Place("cmd|motion", column) for column in (0, 1, 2, 5)]
    assert found == [*motion[:3], None, None, motion[3], Place("cmd|grip", 0)]


def test_a_copy_is_examined_with_the_same_record(tmp_path: Path) -> None:
    source = IteratorSource([raw([1, 0, 0, 2], [0, 0, 0, 1]), raw([3], [1], said="")])
    cleaned = CleanedSource(source, ["strip-noops", "drop-unlabelled"], record=RAW)
    done = convert(cleaned, tmp_path / "out", Conversion("rlds"))
    diagnosis = diagnose(open_source(done.directory), record=RAW)
    assert (len(diagnosis.account.episodes), diagnosis.account.steps) == (1, 2)
    assert next(finding for finding in diagnosis.findings if finding.name == "no-ops").number == 0


@pytest.mark.parametrize("fix", ["strip-noops", "resample=2hz", "drop-nan", "drop-unlabelled", "invert-gripper"])
def test_steps_that_are_not_the_records_are_named_by_every_fix(fix: str) -> None:
    with pytest.raises(DataError, match=r"episode 0: these steps are not of 'bridge_dataset': they lack"):
        mended([raw([1, 1], [1, 0])], fix, record=find_record("bridge_dataset"))


def test_where_no_episode_can_be_mended_the_reason_is_told(tmp_path: Path) -> None:
    cleaned = CleanedSource(IteratorSource([raw([1], [1])]), ["strip-noops"], record=find_record("bridge_orig"))
    with pytest.raises(DataError, match=r"no usable episode in train: episode 0: these steps are not of 'bridge_orig'"):
        convert(cleaned, tmp_path / "out", Conversion("rlds"))
