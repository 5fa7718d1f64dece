from __future__ import annotations

import numpy as np

from openvla.data.episode import build_episode
from openvla.data.rlds import read_episodes, write_episodes
from openvla.data.summary import summarize


def summary_of(tmp_path, *episodes):
    directory = write_episodes(tmp_path / "set", episodes)
    return summarize(directory, read_episodes(directory)).to_dict()


def test_ranges_are_those_of_all_steps_together(tmp_path) -> None:
    actions = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    found = summary_of(tmp_path, *(build_episode({"action": action}) for action in actions))
    assert found["ranges"]["action"]["min"] == actions.min(axis=(0, 1)).tolist()
    assert found["ranges"]["action"]["max"] == actions.max(axis=(0, 1)).tolist()
    assert (found["episodes"], found["steps"]) == (3, 15)


def test_embeddings_have_no_ranges(tmp_path) -> None:
    found = summary_of(tmp_path, build_episode({"embedding": np.zeros((2, 512)), "action": np.zeros((2, 7))}))
    assert list(found["ranges"]) == ["action"]


def test_an_instruction_counts_once_per_episode(tmp_path) -> None:
    steps = {"action": np.zeros((2, 1)), "language_instruction": ["open", "open"]}
    found = summary_of(tmp_path, build_episode(steps), build_episode(steps))
    assert found["instructions"] == {"open": 2}


def test_features_are_described_in_words(tmp_path) -> None:
    steps = {"image": np.zeros((2, 4, 6, 3), np.uint8), "action": np.zeros((2, 7)), "done": np.zeros(2, bool)}
    found = summary_of(tmp_path, build_episode(steps, {"task": "open"}))
    assert found["features"] == {"image": "image jpeg 4x6x3", "action": "float32 (7)", "done": "bool ()"}
    assert found["metadata"] == {"task": "text"}
    assert found["image_sizes"] == {"image": {"4x6": 1}}


def test_nothing_read_is_an_empty_summary(tmp_path) -> None:
    directory = write_episodes(tmp_path / "set", [build_episode({"action": np.zeros((2, 1))})])
    found = summarize(directory, []).to_dict()
    assert (found["episodes"], found["steps"], found["episode_length"], found["ranges"]) == (0, 0, {}, {})
