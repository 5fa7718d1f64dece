from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.statistics import DatasetStatistics, normalize
from openvla.data.episode import demonstration_episode
from openvla.data.rlds import read_episodes, write_episodes
from openvla.data.standardize import standardize
from openvla.data.statistics import dataset_statistics
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
