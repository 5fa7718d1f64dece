"""Training examples and how they are put side by side.

Shapes: T ids of one example, without image patches; B examples; C, S channels and size of the image input.
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

    pixel_values: float32 (C, S, S).
    input_ids: int64 (T,), prompt, action tokens and stop token.
    labels: int64 (T,), the ids to predict; `IGNORE_INDEX` for the prompt.
    """

    pixel_values: NDArray[np.float32]
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def collate(examples: Sequence[Example], pad_token_id: int) -> dict[str, NDArray[Any]]:
    """One batch: pixel_values (B, C, S, S), and input_ids, labels, attention_mask (B, longest T), padded on the right.

    attention_mask is bool, True for ids that are no padding. Raises InputError for an empty list.
    """
    if not examples:
        raise InputError("a batch needs at least one example; got none")
    ids = np.full((len(examples), max(len(example.input_ids) for example in examples)), pad_token_id, np.int64)
    labels = np.full_like(ids, IGNORE_INDEX)
    mask = np.zeros(ids.shape, bool)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = example.input_ids
        labels[row, :length] = example.labels
        mask[row, :length] = True
    pixels = np.stack([example.pixel_values for example in examples])
    return {"pixel_values": pixels, "input_ids": ids, "labels": labels, "attention_mask": mask}


def pad_prompts(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Prompts of any length as ids (B, longest T) padded on the right, and the mask that is True for ids."""
    ids = np.full((len(prompts), max(map(len, prompts))), pad_token_id, np.int64)
    mask = np.zeros(ids.shape, bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = True
    return ids, mask
