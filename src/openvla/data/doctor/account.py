"""What `data doctor` remembers of a data set while it reads every episode once.

Held are the actions, a checksum of every frame and a few frames to look at: some 60 bytes a step, whatever the images
weigh.

Shapes: T steps of one episode, A action dimensions.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.conversion.acting import instructions
from openvla.data.conversion.recode import camera_keys
from openvla.data.episode import Episode
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import ACTION
from openvla.errors import DataError

GRID_FRAMES = 24
"""Frames in the grid of the report."""


@dataclass
class EpisodeAccount:
    """One episode.

    digest: equal for episodes with equal actions and frames. still: camera -> frames that are as the one before.
    unlabelled: steps without an instruction. bad_state: steps with NaN or infinity in what is no action.
    """

    source: str
    length: int
    actions: NDArray[np.float32]
    words: frozenset[str]
    unlabelled: int
    digest: str
    times: NDArray[np.float64] | None
    still: dict[str, int]
    bad_state: int


@dataclass
class Account:
    """The whole data set. sizes: camera -> sizes of images; frames: of the first camera, to be shown."""

    episodes: list[EpisodeAccount] = field(default_factory=list[EpisodeAccount])
    sizes: dict[str, Counter[str]] = field(default_factory=dict[str, "Counter[str]"])
    dark: Counter[str] = field(default_factory=Counter[str])
    spoken: Counter[str] = field(default_factory=Counter[str])
    frames: list[tuple[str, NDArray[np.uint8]]] = field(default_factory=list[tuple[str, "NDArray[np.uint8]"]])
    samples: list[tuple[NDArray[np.uint8], str]] = field(default_factory=list[tuple["NDArray[np.uint8]", str]])
    _stride: int = 1

    def add(self, episode: Episode) -> None:
        """Count one episode in. Raises DataError where it has no actions, and for an image that does not decode."""
        action = episode.steps.get(ACTION)
        if action is None or action.ndim != 2 or action.dtype.kind not in "iuf":
            held = ", ".join(episode.steps) if action is None else f"{ACTION} of shape {action.shape}"
            raise DataError(
                f"{episode.source} has no action with one row of numbers per step; it has {held}; name the "
                "record that says what the action is with --dataset"
            )
        cameras = camera_keys(episode)
        sums = {key: _checksums(episode, key) for key in cameras}
        shown = {key: episode.image(key, len(episode) // 2) for key in cameras}
        for key, image in shown.items():
            self.sizes.setdefault(key, Counter())[f"{image.shape[1]}x{image.shape[0]}"] += 1
            self.dark[key] += int(image.std() < 1)
        said = instructions(episode)
        self.spoken.update({words for words in said if words.strip()})
        digest = hashlib.sha256(np.ascontiguousarray(action).tobytes())
        for values in sums.values():
            digest.update(values.tobytes())
        still = {key: int(np.count_nonzero(np.diff(values) == 0)) for key, values in sums.items()}
        self.episodes.append(
            EpisodeAccount(
                source=episode.source,
                length=len(episode),
                actions=action.astype(np.float32),
                words=frozenset(words.strip() for words in said if words.strip()),
                unlabelled=sum(not words.strip() for words in said),
                digest=digest.hexdigest(),
                times=_times(episode),
                still=still,
                bad_state=_bad_states(episode),
            )
        )
        self._show(episode, shown, said)

    def _show(self, episode: Episode, shown: dict[str, NDArray[np.uint8]], said: list[str]) -> None:
        """Keep the middle frame for the grid; past its size every second one makes room for later episodes."""
        if not shown:
            return
        image, words = next(iter(shown.values())), said[len(episode) // 2]
        number = len(self.episodes) - 1
        if number % self._stride == 0:
            self.frames.append((words or "(no instruction)", image))
            if words.strip():
                self.samples.append((image, words))
        if len(self.frames) > GRID_FRAMES:
            self.frames, self.samples = self.frames[::2], self.samples[::2]
            self._stride *= 2

    @property
    def actions(self) -> NDArray[np.float32]:
        """Every action, (steps, A); of the episodes with the most common A."""
        return np.concatenate([e.actions for e in self.alike]) if self.alike else np.empty((0, 0), np.float32)

    @property
    def alike(self) -> list[EpisodeAccount]:
        """The episodes with the most common number of action dimensions."""
        counts = Counter(episode.actions.shape[1] for episode in self.episodes)
        common = counts.most_common(1)[0][0] if counts else 0
        return [episode for episode in self.episodes if episode.actions.shape[1] == common]

    @property
    def steps(self) -> int:
        """Steps in all episodes."""
        return sum(episode.length for episode in self.episodes)


def _checksums(episode: Episode, key: str) -> NDArray[np.uint32]:
    """One number per frame: of its bytes where they are stored, else of its pixels."""
    held: Any = episode.steps[key]
    if isinstance(held, LazyImages):
        return np.array([zlib.crc32(np.ascontiguousarray(image).data) for image in episode.images(key)], np.uint32)
    return np.array([zlib.crc32(item) for item in held], np.uint32)


def _times(episode: Episode) -> NDArray[np.float64] | None:
    held = episode.steps.get("timestamp")
    return None if held is None else np.asarray(held, np.float64).reshape(-1)


def _bad_states(episode: Episode) -> int:
    """Steps with NaN or infinity in a number that is no action."""
    bad = np.zeros(len(episode), bool)
    for name, values in episode.steps.items():
        if name != ACTION and values.dtype.kind == "f":
            bad |= ~np.isfinite(np.asarray(values)).reshape(len(values), -1).all(axis=1)
    return int(bad.sum())
