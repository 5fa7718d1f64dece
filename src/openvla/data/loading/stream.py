"""Frames one after another from storage that is slow to seek: remote objects, spinning disks. No index, little memory.

Shards are read from start to end, in an order drawn anew each time around; their frames fill a window, and a full
window is handed out in random order. The state is five whole numbers: which round, shard and record the window began
in, which of that record's frames, and how many of it were handed out. A run that resumes reads its window again and
goes on with the very next frame.

A rank reads every so-many-th shard, so shards should be several times as many as ranks. Only RLDS is read this way;
other formats are converted first.

Source: fsspec URLs, https://filesystem-spec.readthedocs.io: a local path, file://, s3://, gs://, https://, memory://.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.codec.statistics import FieldStatistics, as_rows, normalize
from openvla.data.bad import BadData
from openvla.data.loading.frames import Frame
from openvla.data.loading.permutation import mix, permute
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.rlds import decode_episode
from openvla.data.standardize import standardize
from openvla.data.tfds.info import FEATURES_FILE, INFO_FILE, DatasetInfo, shards_of
from openvla.data.tfds.tfrecord import Record, scan_records
from openvla.errors import DataError, InputError, require, unknown

WINDOW = 10_000
"""Frames in memory at once: 250 MB of 25 kB images."""

Shard = tuple[str, int, int]
"""Name, first record, and record after the last, or -1 for the end of the file."""


@dataclass(frozen=True)
class Position:
    """Where a window begins (round, shard in its order, record, frame of it), and how much of it was handed out."""

    round: int = 0
    shard: int = 0
    record: int = 0
    frame: int = 0
    given: int = 0


class Stream:
    """The frames of one data set at `url`, endless. `position` is the state; give it to a new stream to go on."""

    def __init__(
        self,
        url: str,
        dataset: str | DataRecord,
        statistics: FieldStatistics,
        *,
        split: str = "train",
        chunk: int = 1,
        window: int = WINDOW,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        view: str = "primary",
        position: Position | None = None,
        bad: BadData | None = None,
    ) -> None:
        """window: frames held at once.

        Raises DataError for what is not there, UsageError for a view that the record lacks, InputError for a window
        below 1.
        """
        if window < 1:
            raise InputError(f"the window is {window} frames; give a number from 1")
        self.position, self.bad = position or Position(), bad or BadData()
        self._fs, self._root = require("fsspec", "data").core.url_to_fs(url)
        self._record, self._statistics = find_record(dataset), statistics
        self._key, self._chunk, self._window, self._seed = self._record.images_of(view), chunk, window, seed
        info = self._describe(url)
        self._features, self._base = info.features, self._root.rstrip("/")
        parts = [part for each, numbers in info.select(split) for part in shards_of(each, numbers)]
        shards = [(name, first, -1 if stop == length else stop) for name, first, stop, length in parts]
        self._shards: list[Shard] = shards[rank::world]
        if not self._shards:
            raise DataError(
                f"{url} has {len(shards)} shards of {split!r} for {world} ranks, so rank {rank} has none; use fewer "
                "ranks, or an index"
            )

    def __iter__(self) -> Iterator[Frame]:
        """Frames, with `position` always past the last one that was handed out."""
        while True:
            start = self.position
            window, after = self._fill(start)
            key = mix(self._seed, start.round, start.shard, start.record, start.frame)
            order = permute(np.arange(len(window)), len(window), key)
            for given in range(start.given, len(window)):
                self.position = replace(start, given=given + 1)
                yield window[int(order[given])]
            self.position = after

    def _fill(self, start: Position) -> tuple[list[Frame], Position]:
        """The window that begins at `start`, and where the next one begins."""
        window: list[Frame] = []
        at, idle = start, 0
        while len(window) < self._window:
            first, before = at, len(window)
            for record, frames in self._records(at):
                skip = first.frame if record == first.record else 0
                room = self._window - len(window)
                window += frames[skip : skip + room]
                if len(frames) - skip > room:
                    return window, Position(at.round, at.shard, record, skip + room)
                at = replace(at, record=record + 1, frame=0)
            at = self._next(at)
            idle = 0 if len(window) > before else idle + 1
            if idle >= 2 * len(self._shards):
                raise DataError(f"{self._base} has no frames to train on: no episode has an instruction and a chunk")
            if at.round > start.round and window:
                break
        return window, at

    def _next(self, at: Position) -> Position:
        last = at.shard + 1 >= len(self._shards)
        return Position(at.round + 1) if last else Position(at.round, at.shard + 1)

    def _records(self, at: Position) -> Iterator[tuple[int, list[Frame]]]:
        """(record, its frames) of one shard from a position on."""
        order = permute(at.shard, len(self._shards), mix(self._seed, at.round))
        name, first, stop = self._shards[int(order[0])]
        path = f"{self._base}/{name}"
        with ExitStack() as stack:
            try:
                size = self._fs.size(path)
                file = stack.enter_context(self._fs.open(path, "rb"))
            except (OSError, ValueError) as error:
                self.bad.report(DataError(f"cannot read {path}: {error}"))
                return
            wanted = (max(first, at.record), None if stop < 0 else stop)
            for record in scan_records(file, path, size, *wanted, bad=self.bad):
                try:
                    yield record.number, self._frames(record)
                except DataError as error:
                    self.bad.report(error)

    def _frames(self, record: Record) -> list[Frame]:
        episode = decode_episode(record, self._features)
        if self._key not in episode.image_keys:
            raise DataError(f"{record.source}: {unknown(self._key, episode.image_keys, 'image')}")
        steps = standardize(self._record, episode.steps)
        actions = normalize(as_rows(steps["action"], f"{record.source}: action"), self._statistics)
        images: NDArray[Any] = episode.steps[self._key]
        frames: list[Frame] = []
        for row in range(len(actions) - self._chunk + 1):
            words = steps["language_instruction"][row]
            chunk = actions[row : row + self._chunk]
            if words.strip() and self._record.keep_frames(chunk[None])[0]:
                frames.append(Frame(bytes(images[steps["step"][row]]), words, chunk))
        return frames

    def _describe(self, url: str) -> DatasetInfo:
        """The two small files that describe the data set, read through a temporary copy."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "1.0.0"
            place.mkdir()
            for name in (INFO_FILE, FEATURES_FILE):
                try:
                    (place / name).write_bytes(self._fs.cat_file(f"{self._root.rstrip('/')}/{name}"))
                except (OSError, ValueError) as error:
                    raise DataError(
                        f"cannot read {url}/{name}: {error}; give the URL of an RLDS data set's version "
                        "directory; other formats become one with `openvla data convert`"
                    ) from error
            return DatasetInfo.load(place)
