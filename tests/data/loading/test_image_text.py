from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla.codec.actions import ActionTokenizer
from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform
from openvla.codec.tokenizer import SPACE, train_tokenizer
from openvla.data.bad import BadData
from openvla.data.llava import Llava
from openvla.data.loading.batches import Batches
from openvla.data.loading.image_text import ImageText, split_numbers
from openvla.errors import DataError


@pytest.fixture(scope="module")
def codec() -> Codec:
    tokenizer = train_tokenizer(["what is this", "a red cup"], 768)
    images = ImageTransform("resize-naive", (8,), ((0.5,) * 3,), ((0.5,) * 3,))
    space = tokenizer.token_to_id(SPACE)
    return Codec(ActionTokenizer(768), images, tokenizer=tokenizer, suffix_token_id=space, pad_token_id=768)


@pytest.fixture
def llava(tmp_path: Path) -> Llava:
    """Nine conversations, each with its own shade; every third is text alone."""
    entries: list[dict[str, object]] = []
    for n in range(9):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
        turns = [{"from": "human", "value": "what is this"}, {"from": "gpt", "value": f"a cup {n}"}]
        entries.append({"conversations": turns} | ({"image": f"{n}.png"} if n % 3 else {}))
    (tmp_path / "chat.json").write_text(json.dumps(entries))
    return Llava(tmp_path)


@pytest.mark.parametrize(
    ("count", "hold_out", "held"),
    [(10, 5, [4, 9]), (10, 0, []), (4, 20, [3]), (1, 20, []), (2, 2, [1]), (7, 3, [2, 5])],
)
def test_every_so_many_th_is_held_out_and_of_a_few_the_last(count: int, hold_out: int, held: list[int]) -> None:
    train, out = split_numbers(count, hold_out)
    assert out.tolist() == held
    assert sorted([*train.tolist(), *held]) == list(range(count))


def test_what_is_held_out_is_never_shown(llava: Llava, codec: Codec) -> None:
    shown = ImageText(llava, 3, False, 99)
    held = shown.held_out
    assert held is not None
    texts = [
        {tuple(source.example(n, codec).input_ids.tolist()) for n in range(len(source))} for source in (shown, held)
    ]
    assert list(map(len, texts)) == [6, 3]
    assert not texts[0] & texts[1]
    assert ImageText(llava, 0, False, 99).held_out is None


def test_batches_say_where_an_example_comes_from_and_whether_it_has_an_image(llava: Llava, codec: Codec) -> None:
    batches = Batches(ImageText(llava, 0, False, 99), codec, 9, seed=1)
    batch = batches[0]
    shades = batch["pixel_values"].reshape(9, -1).max(axis=1)
    assert sorted(shades.tolist()) == [0, 0, 0, 1, 2, 4, 5, 7, 8]
    assert np.array_equal(batch["has_image"], shades > 0)
    assert batch["source"].tolist() == [0] * 9
    again = Batches(ImageText(llava, 0, False, 99), codec, 9, seed=1)[0]
    assert all(np.array_equal(batch[name], again[name]) for name in batch)


def test_captions_leave_the_question_out(tmp_path: Path, llava: Llava, codec: Codec) -> None:
    entries = [each for each in json.loads(llava.path.read_text()) if "image" in each]
    llava.path.write_text(json.dumps(entries))
    caption = ImageText(Llava(llava.path, captions=True), 0, True, 99).example(0, codec)
    assert codec.tokenizer is not None
    assert codec.tokenizer.decode(caption.input_ids.tolist()) == "a cup 1"


def test_a_conversation_that_cannot_be_used_is_named_or_another_takes_its_place(llava: Llava, codec: Codec) -> None:
    (llava.images / "4.png").write_bytes(b"damaged")
    strict = Batches(ImageText(llava, 0, False, 99), codec, 9, seed=1)
    with pytest.raises(DataError, match=r"entry 4: the image .*4\.png cannot be decoded"):
        strict.make(0)
    account = BadData("skip")
    batch = Batches(ImageText(llava, 0, False, 99), codec, 9, seed=1, bad=account)[0]
    assert len(batch["input_ids"]) == 9
    assert ["entry 4" in line for line in account.skipped] == [True]


def test_a_question_longer_than_the_limit_is_named(llava: Llava, codec: Codec) -> None:
    with pytest.raises(DataError, match=r"chat\.json, entry 0: no answer begins within the first 5 of its"):
        ImageText(llava, 0, False, 5).example(0, codec)
