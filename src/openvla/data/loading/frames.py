"""Frames of an indexed data set, addressed by number: which image, with which words, leads to which action.

A frame is two `pread`s: its row of the index, and its image, which stays encoded in the data set's own file. What is
held in memory is two numbers for each stretch of frames that follow one another, usually one stretch an episode.

Shapes: H, W image; A action dimensions; chunk consecutive actions; N frames; E episodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.codec.batch import Example
from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics, normalize
from openvla.data.images.pixels import Pixels, decode_image
from openvla.data.index.index import Index
from openvla.data.registry.filters import keep_all
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.info import DatasetInfo
from openvla.errors import DataError, lookup, require

ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Frame:
    """One frame as stored: image JPEG or PNG bytes; words; actions float32 (chunk, A), normalised."""

    image: bytes
    words: str
    actions: NDArray[np.float32]


def split_masks(index: Index, hold_out: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which episodes, (E,) each, to train on and to validate on.

    The splits "train" and "val" where the data set has both; else every `hold_out`-th episode of "train" is validated
    on, wherever the data set's order puts its tasks. With `hold_out` 0 all are trained on.
    """
    held = {shard["split"] for shard in index.header.origin.shards}
    train = split_mask(index, "train")
    if "val" in held:
        return train, split_mask(index, "val")
    out = train & (hold_out > 0) & (index.episodes["number"] % max(hold_out, 1) == hold_out - 1)
    return train & ~out, out


def split_mask(index: Index, split: str) -> NDArray[np.bool_]:
    """Which episodes (E,) `split` names: "train", "train[:95%]", "all", ... Raises DataError as `splits.select`."""
    mask = np.zeros(len(index), bool)
    for each, numbers in DatasetInfo.load(index.header.data).select(split):
        mask |= index.select(each.name, numbers)
    return mask


class Frames:
    """The frames of some episodes: every step that has an instruction and a whole action chunk."""

    def __init__(
        self,
        index: Index,
        episodes: NDArray[np.bool_],
        statistics: FieldStatistics,
        chunk: int = 1,
        *,
        record: DataRecord | None = None,
        view: str = "primary",
        pixels: Pixels | None = None,
    ) -> None:
        """Frames of the `episodes` (E,) of an index whose action a data set's `statistics` normalise.

        record: that of the index where None. view: which camera. pixels: what makes an image of its bytes; None decodes
        it as it was recorded.
        Raises UsageError for a view that the record lacks, DataError for another number of action dimensions.
        """
        record = record or find_record(index.header.origin.dataset)
        record.images_of(view)
        lookup(view, dict.fromkeys(index.header.views), f"view of the index of {record.name!r}")
        if index.header.rows and index.header.action_dim != statistics.dim:
            raise DataError(
                f"{index.header.data} has {index.header.action_dim} action dimensions, but the checkpoint "
                f"{statistics.dim}; use data of the same robot, or start from another checkpoint"
            )
        self.index, self.statistics, self.chunk = index, statistics, chunk
        self._view, self._pixels = index.header.views.index(view), pixels
        self._drawn = pixels is not None and pixels.augment is not None
        self._crc32c: Any = require("google_crc32c", "data").value
        start, stop = self._stretches(episodes)
        if record.keep_frames is not keep_all:
            start, stop = self._kept(start, stop, record)
        self._until = np.cumsum(stop - start)
        self._shift = stop - self._until

    def __len__(self) -> int:
        return int(self._until[-1]) if len(self._until) else 0

    def rows(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """Rows of the index that the frames `numbers` (N,) begin at."""
        wanted = np.asarray(numbers, np.int64)
        return wanted + self._shift[np.searchsorted(self._until, wanted, side="right")]

    def read(self, row: int) -> Frame:
        """The frame that begins at `row`. Raises DataError for an image that is not what was indexed."""
        image, words, actions = self.fetch(row)
        return Frame(image, words, normalize(actions, self.statistics))

    def fetch(self, row: int) -> tuple[bytes, str, NDArray[np.float32]]:
        """What `read` reads, with the actions as they were recorded: a batch is normalised at once."""
        held = self.index.rows(row, row + self.chunk)
        first, view = held[0], self._view
        offset = int(first["offset"][view])
        image = self.index.files.read(self.index.path(first["shard"]), offset, int(first["length"][view]))
        if self._crc32c(image) != first["crc"][view]:
            raise DataError(
                f"{self.index.source(row)}: the image at byte {offset} is damaged: its checksum is not that of when "
                "it was indexed; fetch the file again"
            )
        return image, self.index.words(int(first["words"])), held["action"]

    def image(
        self, data: bytes, row: int, seed: tuple[int, ...] = (0,), out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Pixels uint8 (H, W, 3) of the image bytes that were read from `row`; `seed` draws its augmentation.

        out: as for `Pixels`. Raises DataError where it does not decode.
        """
        try:
            if self._pixels is None:
                return decode_image(data, "the image")
            return self._pixels(data, np.random.default_rng(seed) if self._drawn else None, out=out)
        except DataError as error:
            offset = int(self.index.rows(row, row + 1)["offset"][0, self._view])
            raise DataError(f"{self.index.source(row)}: at byte {offset}: {error}") from error

    def example(self, number: int, codec: Codec, seed: tuple[int, ...] = (0,)) -> Example:
        """Frame `number`, with pixels uint8 (V, S, S, 3); `seed` draws its augmentation.

        Raises DataError as `read`, `image`.
        """
        row = int(self.rows(number))
        frame = self.read(row)
        return codec.encode_stored(self.image(frame.image, row, seed), frame.words, frame.actions)

    def _stretches(self, episodes: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first row, row after the last), of each stretch of rows that a chunk fits behind."""
        index = self.index
        runs = index.runs[episodes[index.runs["episode"]]]
        ends = np.append(index.episodes["row"][1:], index.header.rows)[runs["episode"]]
        start, stop = runs["start"].copy(), np.minimum(runs["stop"], ends - self.chunk + 1)
        some = stop > start
        return start[some], stop[some]

    def _kept(
        self, start: NDArray[np.int64], stop: NDArray[np.int64], record: DataRecord
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The stretches without the frames that the record leaves out, which takes one pass over their actions."""
        starts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        stops: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        for first, last in _pieces(start, stop):
            actions = normalize(self.index.rows(first, last + self.chunk - 1)["action"], self.statistics)
            chunks = np.lib.stride_tricks.sliding_window_view(actions, self.chunk, axis=0).transpose(0, 2, 1)
            keep = np.concatenate([[False], record.keep_frames(chunks), [False]]).astype(np.int8)
            edges = np.flatnonzero(np.diff(keep)) + first
            starts.append(edges[::2])
            stops.append(edges[1::2])
        return np.concatenate(starts), np.concatenate(stops)


def _pieces(start: NDArray[np.int64], stop: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    for first, last in zip(start.tolist(), stop.tolist(), strict=True):
        for piece in range(first, last, ROWS_AT_ONCE):
            yield piece, min(piece + ROWS_AT_ONCE, last)
