from __future__ import annotations

import pytest

from openvla.codec import words
from openvla.codec.prompt import Prompt
from openvla.codec.tokenizer import SPACE, train_tokenizer
from openvla.codec.words import Words
from openvla.errors import CheckpointError

TOKENIZER = train_tokenizer(["open the door"], 700)
SUFFIX = TOKENIZER.token_to_id(SPACE)


@pytest.fixture
def ours() -> Words:
    return Words(TOKENIZER, Prompt(), 1, SUFFIX)


def test_a_text_has_its_first_token_only_where_that_is_asked_for(ours: Words) -> None:
    assert ours.of_text("open the door") == ours.of_opening("open the door")
    assert ours.of_text("open the door") == [1, *ours.of_text("open the door", special=False)]


def test_prompts_beyond_the_limit_are_forgotten_and_made_again(ours: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "PROMPTS_KEPT", 2)
    said = ["open it", "close it", "push it", "open it"]
    assert [ours.of_prompt(each) for each in said] == [Words(TOKENIZER, Prompt(), 1, SUFFIX).of_prompt(x) for x in said]
    assert len(ours._prompts) == 2


def test_without_a_tokenizer_there_are_no_ids_of_any_text() -> None:
    bare = Words(None, Prompt(), 1, SUFFIX)
    for make in (bare.of_text, bare.of_opening, bare.of_prompt):
        with pytest.raises(CheckpointError, match="the checkpoint has no tokenizer"):
            make("open it")


def test_a_tokenizer_that_begins_otherwise_is_refused() -> None:
    with pytest.raises(CheckpointError, match="starts the prompt with id 1, not with bos_token_id 7"):
        Words(TOKENIZER, Prompt(), 7, SUFFIX).of_opening("open it")
