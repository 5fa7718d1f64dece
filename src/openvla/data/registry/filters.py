"""What is left out of training: trajectories without words, and frames in which nothing moves.

Filters come after the statistics, which count every step, as published.

Shapes: N frames, each with `chunk` normalised actions of A dimensions.
Source: the data pipeline of the published OpenVLA code; the bounds are those of DROID 1.0.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DROID_Q01 = np.array(
    [
        -0.7776297926902771,
        -0.5803514122962952,
        -0.5795090794563293,
        -0.6464047729969025,
        -0.7041108310222626,
        -0.8895104378461838,
    ],
    np.float32,
)
DROID_Q99 = np.array(
    [
        0.7597932070493698,
        0.5726242214441299,
        0.7351000607013702,
        0.6705610305070877,
        0.6464948207139969,
        0.8897542208433151,
    ],
    np.float32,
)
STILL = 1e-5
"""Largest distance, in normalised units, of an action from zero motion."""


def is_labeled(instructions: Iterable[str]) -> bool:
    """Whether a trajectory says anything at all: one step with words is enough."""
    return any(instructions)


def succeeded(metadata: Mapping[str, Any]) -> bool:
    """Whether an episode is not marked as failed; a prepared data set, without the mark, has none that are."""
    return bool(metadata.get("success", True))


def keep_all(actions: NDArray[Any]) -> NDArray[np.bool_]:
    """Every frame: actions (N, chunk, A) -> bool (N,)."""
    return np.ones(len(actions), bool)


def droid_moves(actions: NDArray[Any]) -> NDArray[np.bool_]:
    """Frames of DROID in which the arm moves: actions (N, chunk, A), normalised to its 1 % and 99 % -> bool (N,).

    The bounds are fixed numbers, as published, so statistics of another version of the data set do not fit them.
    """
    low, high = DROID_Q01, DROID_Q99
    zero = 2 * (0 - low) / (high - low + np.float32(1e-8)) - 1
    moves = np.abs(np.asarray(actions, np.float32)[..., :6] - zero) > STILL
    return np.asarray(moves.any(axis=(1, 2)), np.bool_)
