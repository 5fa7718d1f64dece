from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.actions import ActionTokenizer
from openvla.codec.batch import IGNORE_INDEX, collate
from openvla.codec.codec import Codec
from openvla.codec.conversation import CHATS, Conversation
from openvla.codec.image_text import encode_caption, encode_conversation
from openvla.codec.images import ImageTransform
from openvla.codec.prompt import PROMPTS, Prompt, chat_of
from openvla.codec.tokenizer import SPACE, train_tokenizer
from openvla.errors import CheckpointError, InputError

TURNS = ("<image>\nWhat is this?", "A red cup. ", "Where?", " On the table")
IMAGE = np.full((10, 12, 3), 77, np.uint8)


@pytest.fixture(scope="module")
def codec() -> Codec:
    tokenizer = train_tokenizer(["what is this", "a red cup", "on the table"], 768)
    images = ImageTransform("resize-naive", (8,), ((0.5,) * 3,), ((0.5,) * 3,))
    space = tokenizer.token_to_id(SPACE)
    return Codec(ActionTokenizer(768), images, tokenizer=tokenizer, suffix_token_id=space, pad_token_id=768)


def supervised(ids: np.ndarray, labels: np.ndarray, codec: Codec) -> str:
    assert codec.tokenizer is not None
    return codec.tokenizer.decode(ids[labels != IGNORE_INDEX].tolist(), skip_special_tokens=False)


def test_only_the_answers_are_supervised_each_with_its_stop_token(codec: Codec) -> None:
    example = encode_conversation(codec, TURNS, IMAGE, 2048)
    assert supervised(example.input_ids, example.labels, codec) == "A red cup.</s> On the table</s>"
    learned = example.labels != IGNORE_INDEX
    assert np.array_equal(example.input_ids[learned], example.labels[learned])
    assert (example.input_ids == codec.eos_token_id).sum() == 2


def test_the_whole_text_is_the_prompt_of_the_conversation(codec: Codec) -> None:
    talk = Conversation("pure")
    for number, turn in enumerate(TURNS):
        (talk.answer if number % 2 else talk.say)(turn)
    assert codec.tokenizer is not None
    read = codec.tokenizer.decode(encode_conversation(codec, TURNS, IMAGE, 2048).input_ids.tolist())
    without_spaces = "".join(talk.prompt.replace("</s>", "").split())
    assert "".join(read.split()) == without_spaces


def test_a_caption_stands_alone_and_all_but_the_first_token_is_supervised(codec: Codec) -> None:
    example = encode_caption(codec, "  a red cup\n", IMAGE, 2048)
    assert codec.tokenizer is not None
    assert example.input_ids.tolist() == [*codec.tokenizer.encode("a red cup").ids, codec.eos_token_id]
    assert example.labels.tolist() == [IGNORE_INDEX, *example.input_ids.tolist()[1:]]


def test_images_go_through_the_checkpoints_own_transform(codec: Codec) -> None:
    shown = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    example = encode_caption(replace(codec, image_pipeline="training"), "a cup", shown, 99)
    assert np.array_equal(example.pixel_values, codec.images.views(shown)[0][None])
    assert example.has_image


def test_text_alone_has_zeros_for_an_image_and_the_batch_says_which_rows_have_one(codec: Codec) -> None:
    shown, alone = (encode_conversation(codec, TURNS, image, 2048) for image in (IMAGE, None))
    assert not alone.pixel_values.any()
    assert np.array_equal(shown.input_ids, alone.input_ids)
    assert collate([shown, alone], 768)["has_image"].tolist() == [True, False]
    assert "has_image" not in collate([shown, shown], 768)


def test_encoders_that_are_padded_differently_get_equally_many_views_of_every_image(codec: Codec) -> None:
    means = ((0.2,) * 3, (0.5,) * 3)
    images = ImageTransform("letterbox", (8, 8), means, ((0.5,) * 3,) * 2, fill_per_encoder=True)
    two = replace(codec, images=images)
    square = np.zeros((8, 8, 3), np.uint8)
    shapes = {encode_conversation(two, TURNS, image, 99).pixel_values.shape for image in (IMAGE, square, None)}
    assert shapes == {(2, 8, 8, 3)}


def test_what_is_too_long_is_cut_off(codec: Codec) -> None:
    whole = encode_conversation(codec, TURNS, IMAGE, 2048)
    first = int(np.flatnonzero(whole.labels != IGNORE_INDEX)[0])
    cut = encode_conversation(codec, TURNS, IMAGE, first + 2)
    assert np.array_equal(cut.labels, whole.labels[: first + 2])


def test_a_conversation_without_an_answer_within_the_limit_is_refused(codec: Codec) -> None:
    with pytest.raises(InputError, match="no answer begins within the first 3 of its"):
        encode_conversation(codec, TURNS, IMAGE, 3)


def test_every_prompt_tells_its_chat_format() -> None:
    assert [chat_of(Prompt(PROMPTS[chat])) for chat in CHATS] == list(CHATS)
    assert chat_of(Prompt(PROMPTS["openvla"])) == "pure"
    with pytest.raises(CheckpointError, match=r"'do \{instruction\}' is of none of the chat formats pure, llama2-chat"):
        chat_of(Prompt("do {instruction}"))


def test_a_codec_without_a_tokenizer_says_so(codec: Codec) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        encode_caption(replace(codec, tokenizer=None), "a cup", IMAGE, 99)


@pytest.mark.parametrize("chat", ["pure", "vicuna-v15", "llama2-chat", "mistral-instruct"])
def test_ids_of_llama_are_those_of_the_published_way(chat: str, shared: Path, codec: Codec) -> None:
    """Each turn by itself, stripped on the right, with the first token before the first turn only."""
    transformers = pytest.importorskip("transformers")
    place = shared / "data" / "llama2_tokenizer"
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"))
    from tokenizers import Tokenizer

    llama = replace(
        codec,
        actions=ActionTokenizer(32000),
        tokenizer=Tokenizer.from_file(str(place / "tokenizer.json")),
        prompt=Prompt(PROMPTS[chat]),
        suffix_token_id=29871,
        pad_token_id=32000,
    )
    talk, ids, labels = Conversation(chat), list[int](), list[int]()
    for number, message in enumerate(TURNS):
        text = (talk.answer if number % 2 else talk.say)(message).rstrip()
        turn = theirs(text, add_special_tokens=number == 0).input_ids
        ids += turn
        labels += turn if number % 2 else [IGNORE_INDEX] * len(turn)
    example = encode_conversation(llama, TURNS, IMAGE, 2048)
    assert example.input_ids.tolist() == ids
    assert example.labels.tolist() == labels
    assert ids[0] == 1
