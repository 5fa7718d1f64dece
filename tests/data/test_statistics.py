from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.statistics import DatasetStatistics, compute, normalize
from openvla.data.bad import BadData
from openvla.data.episode import demonstration_episode
from openvla.data.registry.find import find_record
from openvla.data.registry.mixtures import mixture
from openvla.data.registry.record import DataRecord
from openvla.data.rlds import read_episodes, write_episodes
from openvla.data.standardize import standardize
from openvla.data.statistics import _parts, dataset_statistics, mixture_statistics
from openvla.errors import DataError, UsageError


def test_bridge_statistics_are_the_published_ones_bit_for_bit(shared: Path, golden: Path) -> None:
    published = json.loads((golden / "bridge_dataset_reference_stats.json").read_text())
    assert dataset_statistics(shared / "data/bridge_dataset", "bridge_orig").to_dict() == published


def test_normalised_bridge_trajectories_are_the_published_ones(shared: Path, golden: Path) -> None:
    published = json.loads((golden / "bridge_dataset_reference_stats.json").read_text())
    statistics = DatasetStatistics.from_dict(published)
    assert statistics.proprio is not None
    with np.load(golden / "bridge_dataset_reference_trajs.npz") as wanted:
        episodes = list(read_episodes(shared / "data/bridge_dataset"))
        assert len(wanted) == 3 * len(episodes)
        for i, episode in enumerate(episodes):
            steps = standardize("bridge_orig", episode.steps)
            np.testing.assert_allclose(normalize(steps["action"], statistics.action), wanted[f"a{i}"], atol=1e-6)
            np.testing.assert_allclose(normalize(steps["proprio"], statistics.proprio), wanted[f"p{i}"], atol=1e-6)
            assert steps["language_instruction"].tolist() == wanted[f"l{i}"].tolist()


def demonstrations(tmp_path: Path, bad: float = 0.0) -> Path:
    actions = np.random.default_rng(0).normal(size=(2, 3, 4))
    actions[1, 2, 0] += bad
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    return write_episodes(
        tmp_path / "metaworld",
        {
            "train": [demonstration_episode(frames, actions[0], actions[0], "open it", task="t", seed=0)],
            "val": [demonstration_episode(frames, actions[1], actions[1], "open it", task="t", seed=1)],
        },
    )


def test_all_splits_count_unless_one_is_named(tmp_path: Path) -> None:
    path = demonstrations(tmp_path)
    assert dataset_statistics(path, "metaworld").num_transitions == 6
    one = dataset_statistics(path, "metaworld", "val")
    assert (one.num_transitions, one.num_trajectories) == (3, 1)
    assert one.action.normalized.tolist() == [True] * 4


def test_progress_sees_every_episode(tmp_path: Path) -> None:
    seen: list[int] = []

    def count(episodes):  # type: ignore[no-untyped-def]
        for episode in episodes:
            seen.append(len(episode))
            yield episode

    dataset_statistics(demonstrations(tmp_path), "metaworld", progress=count)
    assert seen == [3, 3]


def test_nan_in_an_action_names_file_record_and_step(tmp_path: Path) -> None:
    path = demonstrations(tmp_path, bad=np.nan)
    with pytest.raises(
        DataError, match=r"val\S+: record 0 at byte 0: metaworld action at step 2 is \[nan, .*not finite"
    ):
        dataset_statistics(path, "metaworld")


def test_an_unknown_standardisation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'metawrld'; did you mean 'metaworld'"):
        dataset_statistics(tmp_path, "metawrld")


@pytest.mark.parametrize("name", ["taco_play", "fractal20220817_data"])
def test_statistics_and_normalised_values_are_the_published_ones(golden: Path, name: str) -> None:
    published = json.loads((golden / f"oxe_statistics/{name}_statistics.json").read_text())
    with np.load(golden / f"oxe_statistics/{name}.npz") as arrays:
        stored = dict(arrays)
    trajectories = []
    for i in range(5):
        prefix = f"t{i}/in/"
        raw = {key.removeprefix(prefix): values for key, values in stored.items() if key.startswith(prefix)}
        steps = standardize(name, raw)
        np.testing.assert_array_equal(steps["action"], stored[f"t{i}/std/action"])
        np.testing.assert_array_equal(steps["proprio"], stored[f"t{i}/std/proprio"])
        trajectories.append((steps["action"], steps["proprio"]))
    statistics = compute(trajectories, mask=find_record(name).mask)
    found = statistics.to_dict()
    assert found["action"].pop("mask") == stored["action_normalization_mask"].tolist()
    assert found == published
    assert statistics.proprio is not None
    for i, (action, proprio) in enumerate(trajectories):
        np.testing.assert_allclose(normalize(action, statistics.action), stored[f"t{i}/out/action"], atol=1e-6)
        np.testing.assert_allclose(normalize(proprio, statistics.proprio), stored[f"t{i}/out/proprio"], atol=1e-6)


def test_workers_change_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = np.zeros((4, 8, 8, 3), np.uint8)

    def some(count: int):  # type: ignore[no-untyped-def]
        for seed in range(count):
            yield demonstration_episode(frames, *random.normal(size=(2, 4, 4)), "open it", task="t", seed=seed)

    path = write_episodes(tmp_path / "metaworld", {"train": some(13), "val": some(2)}, shard_megabytes=0.004)
    seen: list[object] = []
    alone = dataset_statistics(path, "metaworld")
    together = dataset_statistics(path, "metaworld", workers=2, progress=lambda items: seen.append(len(items)) or items)
    assert together.to_dict() == alone.to_dict()
    assert seen == [15]


def test_parts_for_workers_are_the_split_in_order() -> None:
    assert _parts([("train", range(3, 9)), ("val", range(2))], 4) == [
        "train[3:5]",
        "train[5:7]",
        "train[7:9]",
        "val[0:2]",
    ]
    assert _parts([("train", range(2))], 8) == ["train[0:1]", "train[1:2]"]
    assert _parts([("train", range(0))], 8) == []


def test_a_record_that_cannot_be_sent_to_workers_says_so(tmp_path: Path) -> None:
    record = DataRecord(images={}, columns=(lambda steps: steps["action"],), name="mine")
    with pytest.raises(UsageError, match=r"cannot be sent to worker processes .* name it FILE\.py:NAME, or use one"):
        dataset_statistics(demonstrations(tmp_path), record, workers=2)


def test_a_mixture_has_statistics_of_each_of_its_data_sets(tmp_path: Path) -> None:
    demonstrations(tmp_path)
    entries = mixture("metaworld=2")
    assert list(mixture_statistics(tmp_path, entries)) == ["metaworld"]
    with pytest.raises(DataError, match="lacks 1 data sets of the mixture: kuka; fetch them"):
        mixture_statistics(tmp_path, mixture("metaworld,kuka"))


def test_a_record_without_proprioception_has_zeros_as_published(tmp_path: Path) -> None:
    record = dataclasses.replace(find_record("metaworld"), proprio=())
    proprio = dataset_statistics(demonstrations(tmp_path), record).proprio
    assert proprio is not None
    assert proprio.q99.tolist() == [0] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_episodes_are_left_out_on_request_and_listed_once(tmp_path: Path, workers: int) -> None:
    path, bad = demonstrations(tmp_path, bad=np.nan), BadData("skip")
    found = dataset_statistics(path, "metaworld", workers=workers, bad=bad)
    assert (found.num_trajectories, found.num_transitions) == (1, 3)
    assert len(bad.skipped) == 1
    assert "metaworld action at step 2" in bad.skipped[0]
