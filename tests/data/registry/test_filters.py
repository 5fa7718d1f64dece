from __future__ import annotations

import numpy as np

from openvla.codec.statistics import FieldStatistics, normalize
from openvla.data.registry.filters import DROID_Q01, DROID_Q99, droid_moves, is_labeled, keep_all, succeeded
from openvla.data.registry.find import DATASETS


def test_one_step_with_words_labels_a_trajectory() -> None:
    assert is_labeled(["", "", "go"])
    assert not is_labeled(["", ""])
    assert not is_labeled([])


def test_only_a_mark_of_failure_drops_an_episode() -> None:
    assert succeeded({})
    assert succeeded({"success": True})
    assert not succeeded({"success": False})


def test_droid_frames_without_motion_are_left_out() -> None:
    low, high = (np.append(bound, end) for bound, end in ((DROID_Q01, 0), (DROID_Q99, 1)))
    statistics = FieldStatistics(low, high, high, low, low, high, mask=np.array([True] * 6 + [False]))
    actions = np.zeros((5, 7), np.float32)
    actions[1, 6] = 1  # the gripper alone is no motion
    actions[2, 0], actions[3, 5], actions[4, 2] = 0.01, -0.01, 1e-7
    frames = normalize(actions, statistics)[:, None]
    assert droid_moves(frames).tolist() == [False, False, True, True, False]
    assert droid_moves(np.concatenate([frames, frames[::-1]], axis=1)).tolist() == [False, True, True, True, False]
    assert droid_moves(frames[:0]).tolist() == []


def test_records_know_their_filters() -> None:
    assert DATASETS["droid"].keep_frames is droid_moves
    assert DATASETS["droid_wipe"].keep_frames is keep_all
    assert DATASETS["bridge_orig"].keep_frames(np.zeros((3, 1, 7))).all()
    assert DATASETS["kuka"].filter(["pick"], {"success": True})
    assert not DATASETS["kuka"].filter(["pick"], {"success": False})
    assert DATASETS["bridge_orig"].filter(["", "pick"], {"success": False})
    assert not DATASETS["bridge_orig"].filter([""])
