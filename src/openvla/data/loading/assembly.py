"""One batch while it is put together: each image is made in its row of the batch, the actions are encoded all at once.

What is done for each frame on its own is what needs its bytes: reading, checking, decoding. Normalising and encoding
seven numbers costs as much as seven thousand, so that waits for the whole batch.

Shapes: B examples; V views, S x S pixels; A action dimensions; chunk consecutive actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import Example, check_shape, join
from openvla.codec.codec import Codec
from openvla.codec.statistics import normalize
from openvla.data.loading.frames import Frames


class Examples(Protocol):
    """A source of examples: `Frames` of a data set, or conversations about images."""

    def __len__(self) -> int: ...

    def example(self, number: int, codec: Codec, seed: tuple[int, ...] = (0,)) -> Example:
        """Example `number`; `seed` draws its augmentation. Raises DataError where it cannot be read."""
        ...


class _Fetched(NamedTuple):
    """A frame whose image is in row `place` of the batch; actions (chunk, A) as they were recorded."""

    place: int
    words: str
    actions: NDArray[np.float32]


class Assembly:
    """A batch of `count` examples of one or many sources, in the order in which they are added.

    It equals `codec.batch.collate` of what the sources' `example` gives, bit for bit.
    """

    def __init__(self, codec: Codec, count: int) -> None:
        self._codec, self._count, self._added = codec, count, 0
        self._pixels: NDArray[np.uint8] | None = None
        self._examples: dict[int, Example] = {}
        self._fetched: dict[Frames, list[_Fetched]] = {}

    def add(self, source: Examples, number: int, seed: tuple[int, ...]) -> None:
        """Example `number` of `source`; `seed` draws its augmentation.

        Raises DataError where it cannot be read, and then nothing has been added. Raises InputError for another shape.
        """
        place = self._added
        if isinstance(source, Frames):
            row = int(source.rows(number))
            data, words, actions = source.fetch(row)
            room = None if self._pixels is None else self._pixels[place, 0]
            self._put(self._codec.stored_frame(source.image(data, row, seed, room)))
            self._fetched.setdefault(source, []).append(_Fetched(place, words, actions))
        else:
            self._examples[place] = source.example(number, self._codec, seed)
            self._put(self._examples[place].pixel_values)
        self._added += 1

    def finish(self) -> dict[str, NDArray[Any]]:
        """The batch, as `codec.batch.join` makes it, with pixel_values uint8 (B, V, S, S, 3)."""
        assert self._pixels is not None, "a batch has at least one example"
        for frames, fetched in self._fetched.items():
            actions = normalize(np.stack([each.actions for each in fetched]), frames.statistics)
            sequences = self._codec.encode_sequences([each.words for each in fetched], actions)
            for each, (ids, labels) in zip(fetched, sequences, strict=True):
                self._examples[each.place] = Example(self._pixels[each.place], ids, labels)
        examples = [self._examples[place] for place in range(self._added)]
        return join(self._pixels, examples, self._codec.pad_token_id)

    def _put(self, pixels: NDArray[np.uint8]) -> None:
        """Pixels (V, S, S, 3) into the next row, unless they were made there."""
        if self._pixels is None:
            self._pixels = np.empty((self._count, *pixels.shape), np.uint8)
        check_shape(self._added, pixels.shape, self._pixels.shape[1:])
        if not np.may_share_memory(pixels, self._pixels):
            self._pixels[self._added] = pixels
