"""Dataset statistics: compute them, store them in the published schema, normalise with them and invert.

Training maps each action dimension to [-1, 1] by its 1st and 99th percentile (BOUNDS_Q99); inference maps back. The two
published formulas are not exact inverses: training adds 1e-8 to the range, inference does not. Both are kept, as is
the rule that a dimension whose minimum equals its maximum becomes 0, even where the mask leaves it unnormalised.

All reductions run in float32 over the joined trajectories, in order: a float64 mean is more accurate, but is not the
number that published checkpoints were trained with. Quantiles interpolate linearly (float32 under numpy 2).

Shapes: T steps of one trajectory, A action dimensions, P proprioception dimensions.
Source: OpenVLA (Kim et al. 2024, arXiv:2406.09246), section 3.2; schema of the published `dataset_statistics.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.codec.statistics_file import DatasetStatistics, FieldStatistics, load_statistics, save_statistics
from openvla.errors import DataError, InputError, UsageError

__all__ = [
    "DatasetStatistics",
    "FieldStatistics",
    "as_rows",
    "compute",
    "load_statistics",
    "normalize",
    "save_statistics",
    "select",
    "unnormalize",
]

EPSILON = 1e-8


def compute(
    trajectories: Iterable[tuple[ArrayLike, ArrayLike | None]], mask: ArrayLike | None = None
) -> DatasetStatistics:
    """Statistics over all steps of `trajectories`, pairs of action (T, A) and proprio (T, P) or None.

    Exact quantiles need every value, so actions and proprio are held in memory (60 bytes a step at A = 7, P = 8).
    Without proprio its statistics are zeros of the action's shape, as published. `mask` is bool (A,).
    Raises DataError for no steps, NaN or infinity, and shapes that differ between trajectories.
    """
    actions: list[NDArray[np.float32]] = []
    proprios: list[NDArray[np.float32]] = []
    for number, (action, proprio) in enumerate(trajectories):
        rows = as_rows(action, f"trajectory {number}: action")
        state = np.zeros_like(rows) if proprio is None else as_rows(proprio, f"trajectory {number}: proprio")
        for what, new, known in (("action", rows, actions), ("proprio", state, proprios)):
            if known and new.shape[1] != known[0].shape[1]:
                raise DataError(
                    f"trajectory {number}: {what} has {new.shape[1]} dimensions, the ones before it have "
                    f"{known[0].shape[1]}; compute statistics of one kind of data at a time"
                )
        if len(state) != len(rows):
            raise DataError(f"trajectory {number}: {len(rows)} actions but {len(state)} proprio rows; need one each")
        actions.append(rows)
        proprios.append(state)
    if not sum(map(len, actions)):
        raise DataError(f"statistics need at least one step; got {len(actions)} trajectories without any")
    joined = np.concatenate(actions)
    flags = None if mask is None else np.asarray(mask, bool)
    if flags is not None and flags.shape != joined.shape[1:]:
        raise DataError(f"the mask has shape {flags.shape}, the actions have {joined.shape[1]} dimensions; make it one")
    return DatasetStatistics(
        action=_reduce(joined, flags),
        proprio=_reduce(np.concatenate(proprios), None),
        num_transitions=len(joined),
        num_trajectories=len(actions),
    )


def as_rows(values: ArrayLike, what: str) -> NDArray[np.float32]:
    """`values` as float32 (T, dim); raises DataError that names `what` and the first step with NaN or infinity."""
    with np.errstate(over="ignore"):
        rows = np.asarray(values, np.float32)
    if rows.ndim != 2:
        raise DataError(f"{what} has shape {rows.shape}; one trajectory is (steps, dimensions)")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        step = int(np.argmax(bad))
        raise DataError(f"{what} at step {step} is {rows[step].tolist()}: not finite; drop or repair this trajectory")
    return rows


def normalize(values: ArrayLike, stats: FieldStatistics) -> NDArray[np.float32]:
    """BOUNDS_Q99 as in training: (..., dim) in robot units -> float32 (..., dim), in [-1, 1] where the mask is True.

    Raises InputError for a last axis other than `stats.dim`, and for NaN or infinity.
    """
    x = _checked(values, stats).astype(np.float32)
    scale = (stats.q99 - stats.q01 + EPSILON).astype(np.float32)
    y = np.clip(2 * (x - stats.q01.astype(np.float32)) / scale - 1, -1, 1)
    y = np.where(stats.normalized, y, x)
    return np.where(stats.min == stats.max, np.float32(0), y)


def unnormalize(values: ArrayLike, stats: FieldStatistics) -> NDArray[np.float64]:
    """The published inference formula: (..., dim) in [-1, 1] -> float64 (..., dim) in robot units.

    Raises InputError for a last axis other than `stats.dim`, and for NaN or infinity.
    """
    x = _checked(values, stats)
    return np.where(stats.normalized, 0.5 * (x + 1) * (stats.q99 - stats.q01) + stats.q01, x)


def select(table: Mapping[str, DatasetStatistics], key: str | None) -> DatasetStatistics:
    """The statistics called `key`; None is enough where the table has just one. Raises UsageError listing the keys."""
    known = ", ".join(sorted(table)) or "none"
    if key is None:
        if len(table) != 1:
            raise UsageError(f"there are {len(table)} sets of statistics, so one must be named; known are {known}")
        return next(iter(table.values()))
    if key not in table:
        raise UsageError(f"unknown statistics {key!r}; known are {known}")
    return table[key]


def _reduce(rows: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> FieldStatistics:
    values = {
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "max": rows.max(axis=0),
        "min": rows.min(axis=0),
        "q01": np.quantile(rows, 0.01, axis=0),
        "q99": np.quantile(rows, 0.99, axis=0),
    }
    return FieldStatistics(**{name: value.astype(np.float64) for name, value in values.items()}, mask=mask)


def _checked(values: ArrayLike, stats: FieldStatistics) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim == 0 or x.shape[-1] != stats.dim:
        raise InputError(
            f"values of shape {x.shape} do not fit statistics of {stats.dim} dimensions; "
            "the last axis must be the dimensions of the dataset the statistics belong to"
        )
    if not np.isfinite(x).all():
        raise InputError(f"values contain NaN or infinity: {x[~np.isfinite(x)][:4].tolist()}; repair them first")
    return x
