"""Columns of raw steps, named in one word and combined: what a data set's record is written in.

A part is a raw name with the columns it takes, "observation|state[:6]" or "action[-1:]", or a part that something is
done to: `inverted(clipped("action[-1:]"))`. Parts are plain values: they can be compared, printed and sent to worker
processes. Nothing is computed before `take` or `join` is given steps.

Shapes: T steps of one trajectory; a raw array (T,) counts as one column (T, 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.registry.gripper import absolute_gripper, binarize_gripper
from openvla.data.registry.rotation import euler_from_quaternion

Array = NDArray[Any]
Steps = Mapping[str, Array]
Part = str | Callable[[Steps], Array]

NAME = re.compile(r"(?P<key>.+?)(\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?", re.DOTALL)


def take(steps: Steps, part: Part) -> Array:
    """The columns that `part` names, (T, k).

    Raises KeyError for a name that `steps` lack, ValueError for columns that it does not have.
    """
    if not isinstance(part, str):
        return part(steps)
    match = NAME.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} names nothing; write a raw name such as 'action' or 'action[:6]'")
    values = steps[match["key"]]
    values = values[:, None] if values.ndim == 1 else values
    if match[2] is None:
        return values
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    if values.ndim != 2 or any(not -values.shape[1] <= end <= values.shape[1] for end in (start, stop) if end):
        raise ValueError(f"{part!r} takes columns of {match['key']!r}, which has shape {values.shape}")
    return values[:, start:stop]


def join(steps: Steps, parts: Iterable[Part]) -> Array:
    """All `parts` side by side, (T, sum of their columns)."""
    columns = [take(steps, part) for part in parts]
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class Changed:
    """`function` of the columns of `part`."""

    function: Callable[[Array], Array]
    part: Part

    def __call__(self, steps: Steps) -> Array:
        return self.function(take(steps, self.part))


@dataclass(frozen=True)
class Joined:
    """Several parts as one."""

    parts: tuple[Part, ...]

    def __call__(self, steps: Steps) -> Array:
        return join(steps, self.parts)


@dataclass(frozen=True)
class Constant:
    """`columns` columns of one value."""

    value: float
    columns: int

    def __call__(self, steps: Steps) -> Array:
        count = len(next(iter(steps.values()), ()))
        return np.full((count, self.columns), self.value, np.float32)


def zeros(columns: int) -> Part:
    """That many columns of 0."""
    return Constant(0.0, columns)


def ones(columns: int) -> Part:
    """That many columns of 1."""
    return Constant(1.0, columns)


def joined(*parts: Part) -> Part:
    """The parts side by side."""
    return Joined(parts)


def inverted(part: Part) -> Part:
    """1 - x: a gripper that says "closed" becomes one that says "open"."""
    return Changed(_invert, part)


def clipped(part: Part) -> Part:
    """Limited to 0..1; a gripper in -1..1 loses its negative half."""
    return Changed(_clip, part)


def binarized(part: Part) -> Part:
    """A gripper's position, one column, rounded to 0 and 1; see `binarize_gripper`."""
    return Changed(_binarize, part)


def positions(part: Part) -> Part:
    """A gripper's motion, its first column, as its position; see `absolute_gripper`."""
    return Changed(_position, part)


def euler(part: Part) -> Part:
    """A quaternion x, y, z, w as roll, pitch, yaw."""
    return Changed(euler_from_quaternion, part)


def unboxed(part: Part) -> Part:
    """A depth map (T, H, W, 1) as float32 (T, H, W)."""
    return Changed(_unbox, part)


def _invert(values: Array) -> Array:
    return 1 - (values if values.dtype.kind == "f" else values.astype(np.float32))


def _clip(values: Array) -> Array:
    return np.clip(values, 0, 1)


def _binarize(values: Array) -> Array:
    return binarize_gripper(values[:, 0])[:, None]


def _position(values: Array) -> Array:
    return absolute_gripper(values[:, 0])[:, None]


def _unbox(values: Array) -> Array:
    return values[..., 0].astype(np.float32)
