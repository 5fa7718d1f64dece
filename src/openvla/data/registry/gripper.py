"""Gripper conventions: after standardisation the gripper column says 1 for open and 0 for closed.

Shapes: T steps of one trajectory.
Source: the standardisation of the published OpenVLA data pipeline, which follows Octo (arXiv:2405.12213), appendix A.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPEN, CLOSED = 0.95, 0.05
MOVING = 0.1


def binarize_gripper(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a gripper command (T,) to 1 (above 0.95) and 0 (below 0.05).

    A value in between belongs to a motion that is under way and takes the definite value it ends at. Where the
    trajectory ends in between, those last steps keep the very last raw value, as published. NaN and infinity stay,
    and are what the values before them end at, so that whoever checks the result finds them.

    >>> binarize_gripper(np.array([0, 0.5, 1, 0.7, 0.6], np.float32)).tolist()
    [0.0, 1.0, 1.0, 0.6000000238418579, 0.6000000238418579]
    """
    is_open = values > OPEN
    lost = ~np.isfinite(values)
    definite = is_open | (values < CLOSED) | lost
    steps = len(values)
    next_definite = np.minimum.accumulate(np.where(definite, np.arange(steps), steps)[::-1])[::-1]
    return np.append(np.where(lost, values, is_open).astype(np.float32), values[-1:])[next_definite]


def absolute_gripper(moves: NDArray[Any]) -> NDArray[np.float32]:
    """A gripper's motion (T,), below -0.1 opening and above 0.1 closing, as its position: 1 open, 0 closed.

    The gripper stays where the last motion brought it. Before the first motion it is where that motion starts, and
    one that never moves is open. NaN stays.

    >>> absolute_gripper(np.array([0, 0, 1, 0, 0, -1, 0], np.float32)).tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    opened = np.where(moves < -MOVING, 1, np.where(moves > MOVING, -1, 0))
    moving = np.flatnonzero(opened)
    start = -opened[moving[0]] if len(moving) else 1
    latest = np.maximum.accumulate(np.where(opened != 0, np.arange(len(moves)), -1))
    position = np.where(latest < 0, start, opened[latest])
    return np.where(np.isnan(moves), np.nan, position / 2 + 0.5).astype(np.float32)
