from __future__ import annotations

import pytest

from openvla.codec.prompt import PROMPTS, Prompt
from openvla.errors import InputError


def test_the_prompt_is_the_published_one_in_lower_case() -> None:
    text = Prompt().render("Pick up the REMOTE")
    assert text == "In: What action should the robot take to pick up the remote?\nOut:"


def test_the_first_version_speaks_vicuna() -> None:
    assert Prompt(PROMPTS["openvla-v01"]).render("Wave") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "USER: What action should the robot take to wave? ASSISTANT:"
    )


@pytest.mark.parametrize("name", PROMPTS)
def test_every_prompt_asks_the_published_question_once_without_a_trailing_space(name: str) -> None:
    text = Prompt(PROMPTS[name]).render("Wave")
    assert text.count("What action should the robot take to wave?") == 1
    assert not text.endswith(" ")
    assert text == PROMPTS[name].replace("{instruction}", "wave")


def test_the_chat_formats_end_where_the_action_begins() -> None:
    ends = {name: PROMPTS[name].partition("?")[2] for name in PROMPTS}
    assert ends == {
        "openvla": "\nOut:",
        "openvla-v01": " ASSISTANT:",
        "pure": "\nOut:",
        "vicuna-v15": " ASSISTANT:",
        "llama2-chat": " [/INST]",
        "mistral-instruct": " [/INST]",
        "phi": "\nOutput:",
        "qwen": "<|im_end|>\n<|im_start|>assistant\n",
    }
    assert PROMPTS["pure"] == PROMPTS["openvla"]
    assert PROMPTS["vicuna-v15"] == PROMPTS["openvla-v01"]


def test_braces_elsewhere_are_literal() -> None:
    assert Prompt("{x} {instruction} {}").render("{instruction}") == "{x} {instruction} {}"


@pytest.mark.parametrize("template", ["", "Do it", "{instruction} {instruction}"])
def test_a_template_holds_the_instruction_exactly_once(template: str) -> None:
    with pytest.raises(
        InputError, match=r"the prompt template .* holds [02] times '\{instruction\}'; write it exactly"
    ):
        Prompt(template)


@pytest.mark.parametrize("instruction", ["", " \n"])
def test_an_empty_instruction_is_refused(instruction: str) -> None:
    with pytest.raises(InputError, match="the instruction is empty; say in words what the robot should do"):
        Prompt().render(instruction)


def test_an_instruction_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InputError, match=r"the instruction 'open \\udcff' is not valid Unicode; send it as UTF-8"):
        Prompt().render("open \udcff")
