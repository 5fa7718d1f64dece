from __future__ import annotations

import pytest

from openvla.codec.conversation import CHATS, Conversation, single_turn
from openvla.errors import InputError, UsageError

LLAMA2 = (
    "<<SYS>\nYou are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"


@pytest.mark.parametrize(
    ("chat", "prompt"),
    [
        ("pure", "In: Hi\nOut:"),
        ("llama2-chat", f"[INST] {LLAMA2}Hi [/INST]"),
        ("vicuna-v15", f"{VICUNA}USER: Hi ASSISTANT:"),
        ("mistral-instruct", "[INST] Hi [/INST]"),
        ("phi", "<|endoftext|>Input: Hi\nOutput:"),
        ("qwen", f"{QWEN}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_a_question_alone_is_the_published_prompt(chat: str, prompt: str) -> None:
    assert single_turn(chat, "Hi") == prompt


@pytest.mark.parametrize(
    ("chat", "prompt"),
    [
        ("pure", "In: a\nOut: b</s>In: c\nOut:"),
        ("llama2-chat", f"[INST] {LLAMA2}a [/INST] b</s>[INST] c [/INST]"),
        ("vicuna-v15", f"{VICUNA}USER: a ASSISTANT: b</s>USER: c ASSISTANT:"),
        ("mistral-instruct", "[INST] a [/INST] b</s>[INST] c [/INST]"),
        ("phi", "<|endoftext|>Input: a\nOutput: b\n<|endoftext|>Input: c\nOutput:"),
        (
            "qwen",
            f"{QWEN}<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_later_turns_follow_the_published_way(chat: str, prompt: str) -> None:
    talk = Conversation(chat)
    talk.say("a")
    talk.answer("b")
    talk.say("c")
    assert talk.prompt == prompt


@pytest.mark.parametrize(
    ("chat", "end"),
    [
        ("pure", "Out: b</s>"),
        ("llama2-chat", "[/INST] b</s>"),
        ("vicuna-v15", "ASSISTANT: b</s>"),
        ("mistral-instruct", "[/INST] b</s>"),
        ("phi", "Output: b\n<|endoftext|>"),
        ("qwen", "assistant\nb<|im_end|><|endoftext|>"),
    ],
)
def test_an_answer_ends_what_a_model_is_trained_on(chat: str, end: str) -> None:
    talk = Conversation(chat)
    talk.say("a")
    talk.answer("b")
    assert talk.prompt.endswith(end)


@pytest.mark.parametrize("chat", CHATS)
def test_a_turn_is_returned_as_it_is_tokenised_in_training(chat: str) -> None:
    talk = Conversation(chat)
    turns = [talk.say("a"), talk.answer("b"), talk.say("c")]
    assert talk.prompt.startswith(CHATS[chat].opening + "".join(turns).rstrip())
    assert not CHATS[chat].opening or CHATS[chat].opening not in turns[0]


def test_image_marks_and_outer_space_are_dropped_and_an_empty_answer_is_a_space() -> None:
    talk = Conversation("pure")
    assert talk.say(" <image>\nWhat?  ") == "In: What?\nOut: "
    assert talk.answer(" ") == " </s>"


def test_braces_in_a_message_are_literal() -> None:
    assert single_turn("pure", "{m} {x} {}") == "In: {m} {x} {}\nOut:"


def test_turns_alternate() -> None:
    talk = Conversation("pure")
    with pytest.raises(InputError, match="an answer follows no question; add the person's turn first"):
        talk.answer("b")
    talk.say("a")
    with pytest.raises(InputError, match="two turns of the person follow each other; add the model's answer first"):
        talk.say("c")


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown chat format 'vicuna'; did you mean 'vicuna-v15'"):
        Conversation("vicuna")
