from __future__ import annotations

import numpy as np

from openvla.data.registry.trajectory import reached_motion, unchanged, without_first


def test_reached_motion_is_the_difference_of_states_and_keeps_the_gripper() -> None:
    state = np.cumsum(np.ones((4, 7)), axis=0) ** 2
    result = reached_motion({"action": np.full((4, 7), 0.25), "observation|state": state, "other": np.arange(4)})
    assert result["action"][:, 0].tolist() == [3, 5, 7]
    assert result["action"][:, -1].tolist() == [0.25] * 3
    assert result["other"].tolist() == [0, 1, 2]


def test_the_first_step_of_everything_goes() -> None:
    result = without_first({"action": np.arange(3), "words": np.array(["a", "b", "c"])})
    assert (result["action"].tolist(), result["words"].tolist()) == ([1, 2], ["b", "c"])


def test_unchanged_steps_are_the_same_object() -> None:
    steps = {"action": np.arange(3)}
    assert unchanged(steps) is steps
