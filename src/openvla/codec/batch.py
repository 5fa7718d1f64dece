"""Training examples and how they are put side by side.

Shapes: T ids of one example, without image patches; B examples; C, S channels and size of the image input; V views:
one, or one for each encoder where their padding differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """

    pixel_values: NDArray[Any]
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def collate(examples: Iterable[Example], pad_token_id: int, count: int | None = None) -> dict[str, NDArray[Any]]:
    """One batch: pixel_values (B, ...), and input_ids, labels, attention_mask (B, longest T), padded on the right.

    attention_mask is bool, True for ids that are no padding.
    count: B, where `examples` make one after the other; each is copied while it is in the processor's cache, and its
        memory serves the next one.
    Raises InputError for an empty list, and for images that differ in shape.
    """
    if count is None:
        examples = list(examples)
        count = len(examples)
    pixels: NDArray[Any] | None = None
    ids: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    for place, example in enumerate(examples):
        image = example.pixel_values
        if pixels is None:
            pixels = np.empty((count, *image.shape), image.dtype)
        if image.shape != pixels.shape[1:]:
            raise InputError(
                f"image {place} of a batch is {image.shape}, the ones before it {pixels.shape[1:]}; bring all of "
                "them to one size"
            )
        pixels[place] = image
        ids.append(example.input_ids)
        labels.append(example.labels)
    if pixels is None:
        raise InputError("a batch needs at least one example; got none")
    padded, mask = pad(ids, pad_token_id)
    targets, _ = pad(labels, IGNORE_INDEX)
    return {"pixel_values": pixels, "input_ids": padded, "labels": targets, "attention_mask": mask}


def pad(rows: Sequence[Sequence[int] | NDArray[np.int64]], value: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of any length as (B, longest T), filled up with `value` on the right, and the mask that is True for rows."""
    padded = np.full((len(rows), max(map(len, rows))), value, np.int64)
    mask = np.zeros(padded.shape, bool)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
        mask[place, : len(row)] = True
    return padded, mask
