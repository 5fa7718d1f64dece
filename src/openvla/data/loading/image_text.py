"""Conversations about images as a source of training examples beside the frames of robots.

Shapes: N conversations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openvla.codec.batch import Example
from openvla.codec.codec import Codec
from openvla.codec.image_text import encode_caption, encode_conversation
from openvla.data.llava import Llava
from openvla.errors import DataError, InputError


def split_numbers(count: int, hold_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `count` conversations to train on and to validate on: every `hold_out`-th, and of fewer the last.

    One conversation alone is trained on, and with `hold_out` 0 all are.
    """
    numbers = np.arange(count)
    every = min(hold_out, count)
    held = (numbers % every == every - 1) if every > 1 else np.zeros(count, bool)
    return numbers[~held], numbers[held]


class ImageText:
    """The conversations of one file that are trained on, or those that are held out."""

    def __init__(self, llava: Llava, hold_out: int, captions: bool, limit: int, held: bool = False) -> None:
        """hold_out: see `split_numbers`. captions: the answer alone is read, as a caption. limit: of tokens of text.

        held: those that are held out, rather than the others.
        """
        self._settings = (llava, hold_out, captions, limit)
        self._numbers = split_numbers(len(llava), hold_out)[held]

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def held_out(self) -> ImageText | None:
        """The conversations of the file that are held out; None where none is."""
        held = ImageText(*self._settings, held=True)
        return held if len(held) else None

    def example(self, number: int, codec: Codec, seed: tuple[int, ...] = (0,)) -> Example:
        """Conversation `number` of these, with pixels uint8 (V, S, S, 3); nothing is drawn, so `seed` is not used.

        Raises DataError for an image that does not decode, and for a conversation without an answer within the limit.
        """
        del seed
        llava, _, captions, limit = self._settings
        place = int(self._numbers[number])
        talk = llava.read(place)
        image = llava.image(place, talk)
        try:
            if captions and image is not None:
                return encode_caption(codec, talk.turns[1], image, limit)
            return encode_conversation(codec, talk.turns, image, limit)
        except InputError as error:
            raise DataError(f"{llava.source(place)}: {error}") from error
