from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from openvla.codec.batch import IGNORE_INDEX, Example, collate
from openvla.errors import InputError


def example(length: int, value: int) -> Example:
    ids = np.full(length, value, np.int64)
    return Example(np.full((3, 2, 2), value, np.float32), ids, np.where(np.arange(length) < 2, IGNORE_INDEX, ids))


def test_a_batch_equals_the_published_padding(golden: Path) -> None:
    tensors = load_file(golden / "micro" / "golden.safetensors")
    pixels = np.zeros((6, 56, 56), np.float32)
    rows = [
        Example(pixels, ids[ids != 320], labels[: np.count_nonzero(ids != 320)])
        for ids, labels in zip(tensors["batch.input_ids"], tensors["batch.labels"], strict=True)
    ]
    batch = collate(rows, pad_token_id=320)
    assert np.array_equal(batch["input_ids"], tensors["batch.input_ids"])
    assert np.array_equal(batch["labels"], tensors["batch.labels"])
    assert np.array_equal(batch["attention_mask"], tensors["batch.input_ids"] != 320)


def test_each_row_holds_its_example_and_then_padding() -> None:
    batch = collate([example(3, 5), example(6, 7)], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 5, 5, 9, 9, 9], [7] * 6]
    assert batch["labels"].tolist() == [[-100, -100, 5, -100, -100, -100], [-100, -100, 7, 7, 7, 7]]
    assert batch["attention_mask"].tolist() == [[True] * 3 + [False] * 3, [True] * 6]
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][1].max() == 7


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="a batch needs at least one example; got none"):
        collate([], pad_token_id=9)


def test_images_of_different_shapes_are_refused() -> None:
    other = Example(np.zeros((3, 2, 3), np.float32), np.zeros(3, np.int64), np.zeros(3, np.int64))
    with pytest.raises(InputError, match=r"image 1 of a batch is \(3, 2, 3\), the ones before it \(3, 2, 2\)"):
        collate([example(3, 5), other], pad_token_id=9)
