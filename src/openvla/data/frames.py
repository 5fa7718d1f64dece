"""Training examples of one data set: which frame, with which words, leads to which action.

All episodes of a split are held with their images still encoded (a few kB each), so any frame is one decode away. The
order of the frames is a permutation seeded by (seed, epoch): what batch `step` holds is a function of `step` alone,
which is all that resuming needs.

Shapes: H, W image; A action dimensions; chunk consecutive actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import Example, collate
from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics, as_rows, normalize
from openvla.data.episode import Episode
from openvla.data.info import DatasetInfo
from openvla.data.oxe import DATASETS
from openvla.data.rlds import read_episodes
from openvla.data.standardize import StandardSteps, standardize
from openvla.errors import DataError, lookup, unknown


def split_episodes(directory: Path, hold_out: int) -> tuple[Iterator[Episode], Iterator[Episode]]:
    """Episodes to train on and to validate on.

    The splits "train" and "val" where the data set has both; else every `hold_out`-th episode of "train" is validated
    on, wherever the data set's order puts its tasks. With `hold_out` 0 all are trained on. Raises DataError.
    """
    if "val" in DatasetInfo.load(directory).splits:
        return read_episodes(directory, "train"), read_episodes(directory, "val")

    def part(held_out: bool) -> Iterator[Episode]:
        for number, episode in enumerate(read_episodes(directory, "train")):
            if (hold_out > 0 and number % hold_out == hold_out - 1) == held_out:
                yield episode

    return part(False), part(True)


class Frames:
    """The frames of one split, addressed by number: every step that has an instruction and a whole action chunk."""

    def __init__(self, episodes: Iterable[Episode], dataset: str, statistics: FieldStatistics, chunk: int = 1) -> None:
        """`statistics` normalise the actions. Raises DataError for unreadable data, NaN and another action size."""
        record = lookup(dataset, DATASETS, "data set")
        self._image_key = record.images["primary"]
        self._chunk = chunk
        self._episodes: list[tuple[Episode, StandardSteps, NDArray[np.float32]]] = []
        self._index: list[tuple[int, int]] = []
        for episode in episodes:
            steps = standardize(dataset, episode.steps)
            if self._image_key not in episode.image_keys:
                raise DataError(f"{episode.source}: {unknown(self._image_key, episode.image_keys, 'image')}")
            actions = as_rows(steps["action"], f"{episode.source}: {dataset} action")
            if actions.shape[1] != statistics.dim:
                raise DataError(
                    f"{episode.source} has {actions.shape[1]} action dimensions, but the checkpoint "
                    f"{statistics.dim}; use data of the same robot, or start from another checkpoint"
                )
            said = [bool(words.strip()) for words in steps["language_instruction"]]
            self._index += [(len(self._episodes), row) for row in range(len(actions) - chunk + 1) if said[row]]
            self._episodes.append((episode, steps, normalize(actions, statistics)))

    def __len__(self) -> int:
        return len(self._index)

    def example(self, number: int, codec: Codec) -> Example:
        """Frame `number` as the model sees it. Raises DataError for an image that does not decode."""
        place, row = self._index[number]
        episode, steps, actions = self._episodes[place]
        return codec.encode_example(
            episode.image(self._image_key, int(steps["step"][row])),
            steps["language_instruction"][row],
            actions[row : row + self._chunk],
        )


class Batches:
    """An endless, seeded stream of batches over all frames, epoch after epoch, addressed by step."""

    def __init__(self, frames: Frames, codec: Codec, batch_size: int, seed: int) -> None:
        """Raises DataError where there are no frames."""
        if not len(frames):
            raise DataError(
                "there are no training frames; the split is empty, or its episodes have no instruction or are shorter "
                "than a chunk"
            )
        self.frames, self.batch_size = frames, batch_size
        self._codec, self._seed = codec, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Mapping[str, NDArray[Any]]:
        """Batch `step` (from 0) as `codec.batch.collate` makes it."""
        first = step * self.batch_size
        numbers = [self._frame(position) for position in range(first, first + self.batch_size)]
        return collate([self.frames.example(number, self._codec) for number in numbers], self._codec.pad_token_id)

    def _frame(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.frames))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self.frames))
        return int(self._order[offset])
