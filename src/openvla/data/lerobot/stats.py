"""The statistics that LeRobot keeps: per episode, and over the whole data set.

Mean and deviation over the data set are exact, and so are the quantiles of every feature of up to 64 values (they are
computed from the columns again; LeRobot averages those of the episodes, which gives no quantile). Those of longer
features and of images are averages over episodes. Images are judged by a few frames at a coarse grid, scaled to [0, 1].

Shapes: T steps, E episodes, D dimensions of one feature; one number counts as D = 1.
Source: the layout of `meta/stats.json`, LeRobotDataset v3.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
KEYS = ("min", "max", "mean", "std", "count", *QUANTILES)
MAX_EXACT = 64
MAX_FRAMES = 20
GRID = 128
"""Images are thinned out to about this many pixels a side."""

Numbers = dict[str, NDArray[Any]]


def of_values(values: NDArray[Any]) -> Numbers:
    """The statistics of (T, ...) numbers or bools; each (D,) or of the shape of one step."""
    rows = values.reshape(len(values), -1) if values.ndim < 2 else values
    numbers = rows.astype(np.float64)
    lowest, highest = (rows.min(axis=0), rows.max(axis=0))
    exact = rows.dtype.kind in "iu"
    return {
        "min": lowest if exact else lowest.astype(np.float64),
        "max": highest if exact else highest.astype(np.float64),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
        "count": np.array([len(rows)]),
        **{key: np.quantile(numbers, q, axis=0) for key, q in QUANTILES.items()},
    }


def of_images(frames: Sequence[NDArray[np.uint8]]) -> Numbers:
    """The statistics of some frames uint8 (H, W, 3); each (3, 1, 1), in [0, 1]."""
    pixels = np.concatenate([_thin(frame).reshape(-1, 3) for frame in frames]) / 255.0
    table = of_values(pixels)
    return {key: table[key] if key == "count" else table[key].reshape(3, 1, 1) for key in KEYS} | {
        "count": np.array([len(frames)])
    }


def sampled_steps(count: int) -> list[int]:
    """The steps whose frames are judged: all of few, else MAX_FRAMES evenly spread."""
    return sorted(set(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()))


def merge(parts: Sequence[Numbers]) -> Numbers:
    """The statistics of all episodes from those of each; quantiles are averages."""
    counts = np.array([part["count"][0] for part in parts], np.float64)

    def average(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.average(np.stack(values), axis=0, weights=counts)

    mean = average([part["mean"] for part in parts])
    second = average([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(second),
        "count": np.array([int(counts.sum())]),
        **{key: average([part[key] for part in parts]) for key in QUANTILES},
    }


def with_quantiles(table: Numbers, values: NDArray[Any]) -> Numbers:
    """`table` with the exact quantiles of all `values` (T, ...)."""
    rows = (values.reshape(len(values), -1) if values.ndim < 2 else values).astype(np.float64)
    return {**table, **{key: np.quantile(rows, q, axis=0) for key, q in QUANTILES.items()}}


def plain(table: Mapping[str, Numbers]) -> dict[str, dict[str, Any]]:
    """The content of `stats.json`."""
    return {name: {key: numbers[key].tolist() for key in KEYS} for name, numbers in table.items()}


def _thin(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = max(1, min(frame.shape[:2]) // GRID)
    return frame[::step, ::step]
