"""Training examples and how they are put side by side.

Shapes: T ids of one example, without image patches; B examples; C, S channels and size of the image input; V views:
one, or one for each encoder where their padding differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError

IGNORE_INDEX = -100
"""Label of a position that is not supervised."""


@dataclass(frozen=True, eq=False)
class Example:
    """What the model is trained on for one step.

    pixel_values: float32 (C, S, S), normalised; or uint8 (V, S, S, 3), as `Codec.encode_stored` leaves them.
    input_ids: int64 (T,), prompt, action tokens and stop token.
    labels: int64 (T,), the ids to predict; `IGNORE_INDEX` for the prompt.
    has_image: False for text alone, whose pixel_values are zeros.
    """

    pixel_values: NDArray[Any]
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    has_image: bool = True


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """One batch of `examples`, as `join` makes it.

    Raises InputError for an empty list, and for images that differ in shape.
    """
    if not examples:
        raise InputError("a batch needs at least one example; got none")
    first = examples[0].pixel_values
    for place, example in enumerate(examples):
        check_shape(place, example.pixel_values.shape, first.shape)
    return join(np.stack([example.pixel_values for example in examples]), examples, pad_token_id)


def check_shape(place: int, shape: tuple[int, ...], before: tuple[int, ...]) -> None:
    """Raises InputError where the image `place` of a batch has not the shape of those before it."""
    if shape != before:
        raise InputError(
            f"image {place} of a batch is {shape}, the ones before it {before}; bring all of them to one size"
        )


def join(pixels: NDArray[Any], examples: Sequence[Example], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """One batch: pixel_values (B, ...), and input_ids, labels, attention_mask (B, longest T), padded on the right.

    attention_mask is bool, True for ids that are no padding. Where some examples are text alone, there is has_image,
    bool (B,), too.
    """
    padded, mask = pad([example.input_ids for example in examples], pad_token_id)
    targets, _ = pad([example.labels for example in examples], IGNORE_INDEX)
    batch = {"pixel_values": pixels, "input_ids": padded, "labels": targets, "attention_mask": mask}
    images = [example.has_image for example in examples]
    return batch if all(images) else batch | {"has_image": np.asarray(images)}


def pad(rows: Sequence[Sequence[int] | NDArray[np.int64]], value: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of any length as (B, longest T), filled up with `value` on the right, and the mask that is True for rows."""
    padded = np.full((len(rows), max(map(len, rows))), value, np.int64)
    mask = np.zeros(padded.shape, bool)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
        mask[place, : len(row)] = True
    return padded, mask
