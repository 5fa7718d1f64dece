"""Batches of training examples, addressed by step: which frames, is a matter of (seed, step) alone; see `sampler`.

A frame that cannot be read stops the run, or where bad data is skipped, another frame of its data set takes its place,
always the same one, so that runs stay comparable and every rank agrees. Conversations about images are drawn likewise,
beside the frames of robots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.codec.codec import Codec
from openvla.data.bad import BadData
from openvla.data.loading.assembly import Assembly, Examples
from openvla.data.loading.sampler import Sampler, step_numbers
from openvla.errors import DataError

ATTEMPTS = 20
"""Frames in a row that may be unreadable; with one frame in ten bad, a run of 20 has a chance of 1e-20."""

Batch = Mapping[str, NDArray[Any]]


class Batches:
    """An endless, seeded stream of batches over the frames of one or many data sets."""

    def __init__(
        self,
        frames: Examples | Sequence[Examples],
        codec: Codec,
        batch_size: int,
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        bad: BadData | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """batch_size: of all ranks together. weights: of each data set. bad: what to do with unreadable frames.

        Raises DataError where a data set has no frames, InputError for a batch that the ranks cannot share.
        """
        self.sources: tuple[Examples, ...] = tuple(frames) if isinstance(frames, Sequence) else (frames,)
        if not any(map(len, self.sources)):
            raise DataError(
                "there are no training frames; the split is empty, or its episodes have no instruction or are shorter "
                "than a chunk"
            )
        self.batch_size, self.codec, self.bad = batch_size, codec, bad or BadData()
        self.sampler = Sampler(tuple(map(len, self.sources)), tuple(weights or [1.0] * len(self.sources)), seed)
        self._rank, self._world = rank, world
        step_numbers(0, batch_size, rank, world)

    def __len__(self) -> int:
        """Frames of all data sets."""
        return sum(map(len, self.sources))

    def __getitem__(self, step: int) -> Batch:
        """The share of this rank in batch `step` (from 0), as `codec.batch.join` makes it."""
        batch, skipped = self.make(step)
        for error in skipped:
            self.bad.report(error)
        return batch

    def make(self, step: int) -> tuple[Batch, list[DataError]]:
        """Batch `step`, and what was wrong with the frames that others had to stand in for.

        Beside what `join` makes, "source" is int64 (B,): the number of the source of each example.
        Raises the first DataError unless bad data is skipped, and where nothing but bad data is found.
        """
        numbers = step_numbers(step, self.batch_size, self._rank, self._world)
        sources, frames = (drawn.tolist() for drawn in self.sampler.draw(numbers))
        skipped: list[DataError] = []
        batch = Assembly(self.codec, len(numbers))
        for number, source, frame in zip(numbers.tolist(), sources, frames, strict=True):
            self._add(batch, number, self.sources[source], frame, skipped)
        return batch.finish() | {"source": np.asarray(sources, np.int64)}, skipped

    def _add(self, batch: Assembly, number: int, source: Examples, frame: int, skipped: list[DataError]) -> None:
        """Sample `number` of all: `frame` of `source`, or the first one drawn in its stead that can be read."""
        for attempt in range(ATTEMPTS):
            try:
                return batch.add(source, frame, (self.sampler.seed, number, attempt))
            except DataError as error:
                if self.bad.mode == "raise":
                    raise
                skipped.append(error)
            frame = int(self.sampler.draw(number, attempt + 1)[1][0])
        raise DataError(
            f"{ATTEMPTS} frames in a row cannot be used, the last: {skipped[-1]}; check the data set with "
            "`openvla data doctor`"
        )
