"""What some data sets need done to a whole trajectory: steps dropped, commanded motion replaced by reached motion.

Each function takes and returns flat steps, every array with first axis T, and shortens all of them alike.
"""

from __future__ import annotations

import numpy as np

from openvla.data.registry.columns import Steps


def unchanged(steps: Steps) -> Steps:
    """The steps as they are."""
    return steps


def without_first(steps: Steps) -> Steps:
    """The first step goes (T -> T - 1): where recording began, nothing was commanded yet."""
    return {name: values[1:] for name, values in steps.items()}


def reached_motion(steps: Steps) -> Steps:
    """Motion as reached: action[t, :6] = state[t + 1, :6] - state[t, :6]; the gripper stays; the last step goes.

    Angles are subtracted without wrapping at pi, as published.
    """
    action, state = steps["action"], steps["observation|state"]
    moved = np.concatenate([state[1:, :6] - state[:-1, :6], action[:-1, -1:]], axis=1)
    return {**{name: values[:-1] for name, values in steps.items()}, "action": moved}
