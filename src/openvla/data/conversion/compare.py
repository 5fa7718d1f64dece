"""Two streams of the same episodes, compared value by value: what was written, beside what it was written from.

Shapes: T steps, H x W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.conversion.recode import camera_keys
from openvla.data.episode import Episode
from openvla.data.formats.lazy import LazyImages
from openvla.errors import DataError

REPORT = "this is a defect of the conversion, please report it"


@dataclass
class Comparison:
    """The account. identical: feature -> values that are the same bits; psnr_db: camera -> that of each other frame."""

    identical: Counter[str] = field(default_factory=Counter[str])
    psnr_db: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def to_dict(self) -> dict[str, Any]:
        """The account as plain values; PSNR as its mean and minimum."""
        films = {key: {"mean": float(np.mean(x)), "min": float(np.min(x))} for key, x in self.psnr_db.items()}
        return {"bit_equal_values": dict(self.identical), "psnr_db": films}


def compare(old: Iterable[Episode], new: Iterable[Episode], account: Comparison) -> Iterator[Episode]:
    """Compare the streams in step and yield the new episodes; `account` is added to.

    Raises DataError where a stream is shorter, and at the first number or word that differs, naming episode and step.
    """
    for before, after in zip_longest(old, new):
        if before is None or after is None:
            at = [episode.source for episode in (before, after) if episode is not None]
            raise DataError(f"one data set ends before the other, at {at[0]}; {REPORT}")
        if len(before) != len(after) or before.steps.keys() != after.steps.keys():
            raise DataError(f"{after.source} has other steps or features than {before.source}; {REPORT}")
        cameras = camera_keys(before)
        for name in before.steps:
            if name in cameras:
                _compare_images(before, after, name, account)
            else:
                account.identical[name] += _same(before, after, name)
        yield after


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two images, at most 100 dB, which stands for identical ones."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 100.0 if error == 0 else min(100.0, float(10 * np.log10(255**2 / error)))


def _same(before: Episode, after: Episode, name: str) -> int:
    """How many values are the same; raises DataError at the first step that differs."""
    one, two = before.steps[name], after.steps[name]
    for step in range(len(before)):
        if not _equal(one[step], two[step]):
            raise DataError(f"{after.source}: {name!r} at step {step} is {two[step]!r}, was {one[step]!r}; {REPORT}")
    return int(one.size) if one.dtype != object else len(one)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, str | bytes):
        return one == two
    if isinstance(one, list):
        return len(one) == len(two) and all(_equal(a, b) for a, b in zip(one, two, strict=True))
    a, b = np.asarray(one), np.asarray(two)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _compare_images(before: Episode, after: Episode, name: str, account: Comparison) -> None:
    for step in range(len(before)):
        one: Any = before.steps[name]
        two: Any = after.steps[name]
        if not isinstance(one, LazyImages) and not isinstance(two, LazyImages) and one[step] == two[step]:
            account.identical[name] += 1
            continue
        a, b = before.image(name, step), after.image(name, step)
        if a.shape != b.shape:
            raise DataError(f"{after.source}: {name!r} at step {step} has shape {b.shape}, was {a.shape}; {REPORT}")
        if np.array_equal(a, b):
            account.identical[name] += 1
        else:
            account.psnr_db.setdefault(name, []).append(psnr_db(a, b))
