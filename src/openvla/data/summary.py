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
from openvla.data.formats.detect import open_source
from openvla.data.formats.source import Source
from openvla.data.tfds.features import Image, Leaf, Tensor

INSTRUCTION = "language_instruction"
MAX_RANGED_DIM = 64
"""Longer vectors (embeddings, depth maps) have no ranges that a person reads."""


@dataclass
class Summary:
    """The running account. lengths: steps per episode; ranges: step feature -> (minimum, maximum) per dimension."""

    source: Source
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
            if _has_ranges(self.source.features.steps[name], values):
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
            "name": self.source.name,
            "version": self.source.version,
            "directory": str(self.source.path),
            "splits": dict(self.source.splits),
            "episodes": len(self.lengths),
            "steps": int(lengths.sum()),
            "episode_length": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "max": int(lengths.max()),
            }
            if len(lengths)
            else {},
            "features": {name: _describe(leaf) for name, leaf in self.source.features.steps.items()},
            "metadata": {name: _describe(leaf) for name, leaf in self.source.features.metadata.items()},
            "image_sizes": {key: dict(sizes) for key, sizes in self.image_sizes.items()},
            "instructions": dict(self.instructions.most_common()),
            "ranges": {name: {"min": low.tolist(), "max": high.tolist()} for name, (low, high) in self.ranges.items()},
        }


def summarize(directory: str | Path, episodes: Iterable[Episode]) -> Summary:
    """The summary of `episodes`, which were read from the data set at `directory`."""
    summary = Summary(open_source(directory))
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
