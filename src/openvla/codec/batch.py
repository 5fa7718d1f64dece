"""Training examples and how they are put side by side.

Shapes: T ids of one example, without image patches; B examples; C, S channels and size of the image input; V views, one,
or one for each encoder where their padding differs.
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
    """

    pixel_values: NDArray[Any]
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """One batch: pixel_values (B, ...), and input_ids, labels, attention_mask (B, longest T), padded on the right.

    attention_mask is bool, True for ids that are no padding. Raises InputError for an empty list.
    """
    if not examples:
        raise InputError("a batch needs at least one example; got none")
    ids, mask = pad([example.input_ids for example in examples], pad_token_id)
    labels, _ = pad([example.labels for example in examples], IGNORE_INDEX)
    pixels = np.stack([example.pixel_values for example in examples])
    return {"pixel_values": pixels, "input_ids": ids, "labels": labels, "attention_mask": mask}


def pad(rows: Sequence[Sequence[int] | NDArray[np.int64]], value: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of any length as (B, longest T), filled up with `value` on the right, and the mask that is True for rows."""
    padded = np.full((len(rows), max(map(len, rows))), value, np.int64)
    mask = np.zeros(padded.shape, bool)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
        mask[place, : len(row)] = True
    return padded, mask
