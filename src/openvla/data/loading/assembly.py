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
    """A frame whose image is in its row of the batch; actions (chunk, A) as they were recorded."""

    frames: Frames
    words: str
    actions: NDArray[np.float32]


class Assembly:
    """A batch of `count` examples of one or many sources, in the order in which they are added.

    It equals `codec.batch.collate` of what the sources' `example` gives, bit for bit.
    """

    def __init__(self, codec: Codec, count: int) -> None:
        self._codec, self._count = codec, count
        self._pixels: NDArray[np.uint8] | None = None
        self._added: list[_Fetched | Example] = []

    def add(self, source: Examples, number: int, seed: tuple[int, ...]) -> None:
        """Example `number` of `source`; `seed` draws its augmentation.

        Raises DataError where it cannot be read, and then nothing has been added. Raises InputError for another shape.
        """
        if not isinstance(source, Frames):
            example = source.example(number, self._codec, seed)
            self._put(example.pixel_values)
            self._added.append(example)
            return
        row = int(source.rows(number))
        data, words, actions = source.fetch(row)
        room = None if self._pixels is None else self._pixels[len(self._added), 0]
        self._put(self._codec.stored_frame(source.image(data, row, seed, room)))
        self._added.append(_Fetched(source, words, actions))

    def finish(self) -> dict[str, NDArray[Any]]:
        """The batch, as `codec.batch.join` makes it, with pixel_values uint8 (B, V, S, S, 3)."""
        assert self._pixels is not None, "a batch has at least one example"
        encoded = self._encoded()
        examples = [encoded.get(place, item) for place, item in enumerate(self._added)]
        return join(self._pixels, [item for item in examples if isinstance(item, Example)], self._codec.pad_token_id)

    def _put(self, pixels: NDArray[np.uint8]) -> None:
        """Pixels (V, S, S, 3) into the next row, unless they were made there."""
        if self._pixels is None:
            self._pixels = np.empty((self._count, *pixels.shape), np.uint8)
        check_shape(len(self._added), pixels.shape, self._pixels.shape[1:])
        if not np.may_share_memory(pixels, self._pixels):
            self._pixels[len(self._added)] = pixels

    def _encoded(self) -> dict[int, Example]:
        """The frames as examples, by place; each data set's actions are normalised and encoded together."""
        assert self._pixels is not None
        places: dict[Frames, list[tuple[int, _Fetched]]] = {}
        for place, item in enumerate(self._added):
            if isinstance(item, _Fetched):
                places.setdefault(item.frames, []).append((place, item))
        made: dict[int, Example] = {}
        for frames, items in places.items():
            actions = normalize(np.stack([item.actions for _, item in items]), frames.statistics)
            sequences = self._codec.encode_sequences([item.words for _, item in items], actions)
            for (place, _), (ids, labels) in zip(items, sequences, strict=True):
                made[place] = Example(self._pixels[place], ids, labels)
        return made
