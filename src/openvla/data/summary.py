"""What a data set holds, at a glance: splits, features, image sizes, instructions, and the range of every number.

One pass over all episodes; one image per camera and episode is decoded, the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.episode import Episode
from openvla.data.features import Image, Leaf, Tensor
from openvla.data.info import DatasetInfo

INSTRUCTION = "language_instruction"
MAX_RANGED_DIM = 64
"""Longer vectors (embeddings, depth maps) have no ranges that a person reads."""


@dataclass
class Summary:
    """The running account. lengths: steps per episode; ranges: step feature -> (minimum, maximum) per dimension."""

    info: DatasetInfo
    lengths: list[int] = field(default_factory=list[int])
    image_sizes: dict[str, Counter[str]] = field(default_factory=dict[str, "Counter[str]"])
    instructions: Counter[str] = field(default_factory=Counter[str])
    ranges: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(
        default_factory=dict[str, "tuple[NDArray[Any], NDArray[Any]]"]
    )

    def add(self, episode: Episode) -> None:
        """Count one episode in. Raises DataError where an image does not decode."""
        self.lengths.append(len(episode))
        for key in episode.image_keys:
            if len(episode):
                height, width, _ = episode.image(key, 0).shape
                self.image_sizes.setdefault(key, Counter())[f"{height}x{width}"] += 1
        if INSTRUCTION in episode.steps:
            self.instructions.update(set(map(_text, episode.steps[INSTRUCTION])))
        for name, values in episode.steps.items():
            if _has_ranges(self.info.features.steps[name], values):
                self._widen(name, values.reshape(len(values), -1))

    def _widen(self, name: str, values: NDArray[Any]) -> None:
        low, high = values.min(axis=0), values.max(axis=0)
        if name in self.ranges:
            low, high = np.minimum(low, self.ranges[name][0]), np.maximum(high, self.ranges[name][1])
        self.ranges[name] = low, high

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values."""
        lengths = np.asarray(self.lengths)
        return {
            "name": self.info.name,
            "version": self.info.version,
            "directory": str(self.info.directory),
            "splits": {name: split.num_episodes for name, split in self.info.splits.items()},
            "episodes": len(self.lengths),
            "steps": int(lengths.sum()),
            "episode_length": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "max": int(lengths.max()),
            }
            if len(lengths)
            else {},
            "features": {name: _describe(leaf) for name, leaf in self.info.features.steps.items()},
            "metadata": {name: _describe(leaf) for name, leaf in self.info.features.metadata.items()},
            "image_sizes": {key: dict(sizes) for key, sizes in self.image_sizes.items()},
            "instructions": dict(self.instructions.most_common()),
            "ranges": {name: {"min": low.tolist(), "max": high.tolist()} for name, (low, high) in self.ranges.items()},
        }


def summarize(directory: str | Path, episodes: Iterable[Episode]) -> Summary:
    """The summary of `episodes`, which were read from the data set at `directory`."""
    summary = Summary(DatasetInfo.load(directory))
    for episode in episodes:
        summary.add(episode)
    return summary


def _has_ranges(leaf: Leaf, values: NDArray[Any]) -> bool:
    return (
        isinstance(leaf.feature, Tensor)
        and values.dtype.kind in "iuf"
        and len(values) > 0
        and 0 < values[0].size <= MAX_RANGED_DIM
    )


def _describe(leaf: Leaf) -> str:
    """One leaf in words: "image jpeg 128x128x3", "float32 (7,)", "text"."""
    feature = leaf.feature
    if isinstance(feature, Image):
        return (
            f"image {feature.format or 'jpeg or png'} {'x'.join('?' if n is None else str(n) for n in feature.shape)}"
        )
    if isinstance(feature, Tensor):
        return f"{feature.dtype} ({', '.join('?' if n is None else str(n) for n in feature.shape)})"
    return "text"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
