from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from openvla.codec.prompt import Prompt
from openvla.codec.tokenizer import tokenizer_text, train_tokenizer
from openvla.errors import InputError

TEXTS = [
    Prompt().render(instruction)
    for instruction in (
        "open the drawer",
        "close the drawer",
        "push the button 12 times!",
        "put <0x0A> in <action_3>",
        "café",
    )
]
SIZE = 700


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, SIZE)


def test_the_layout_is_that_of_a_published_tokenizer_in_small(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size(with_added_tokens=False) == SIZE
    assert sorted(tokenizer.get_vocab(with_added_tokens=False).values()) == list(range(SIZE))
    assert [tokenizer.token_to_id(name) for name in ("<unk>", "<s>", "</s>", "<PAD>")] == [0, 1, 2, SIZE]
    assert [tokenizer.id_to_token(SIZE - 256), tokenizer.id_to_token(SIZE - 1)] == ["<action_0>", "<action_255>"]
    assert tokenizer.token_to_id("▁") is not None


def test_words_of_the_texts_become_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("open the drawer").tokens == ["<s>", "▁open", "▁the", "▁drawer"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        " leading",
        "trailing ",
        "two  spaces",
        "Quick brown foxes!",
        "tab\tnew\nline\r",
        "\x00\x7f",
        "¿qué?",
        "日本語 🤖 ∑",
        "<0x0A>",
        "<action_3>",
        "<unused_0>",
        *TEXTS,
    ],
)
def test_any_text_survives_and_yields_no_action_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids[0] == 1
    assert max(ids) < SIZE - 256
    assert tokenizer.decode(ids) == text


def test_random_unicode_survives(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    for _ in range(300):
        codes = [
            draw.choice((draw.randrange(0x20, 0x7F), draw.randrange(0x3000), draw.randrange(0x10000, 0x110000)))
            for _ in range(20)
        ]
        text = "".join(map(chr, codes)).replace("▁", "")
        ids = tokenizer.encode(text).ids
        assert max(ids) < SIZE - 256
        assert tokenizer.decode(ids) == text


def test_the_same_texts_in_any_order_give_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    expected = tokenizer.to_str()
    for seed in range(4):
        shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
        assert train_tokenizer(shuffled, SIZE).to_str() == expected


def test_entries_the_texts_leave_over_are_unused() -> None:
    tokenizer = train_tokenizer(["ab ab"], SIZE)
    assert tokenizer.get_vocab_size(with_added_tokens=False) == SIZE
    assert tokenizer.id_to_token(SIZE - 257).startswith("<unused_")


def test_it_survives_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS[0]).ids


def test_a_vocabulary_without_room_for_the_fixed_entries_is_refused() -> None:
    train_tokenizer(TEXTS, 610)
    with pytest.raises(InputError, match=r"a vocabulary of 609 is too small: .* take 610; choose at least that many"):
        train_tokenizer(TEXTS, 609)


def test_merges_are_written_in_the_form_that_the_pinned_library_reads() -> None:
    tokenizer = train_tokenizer(TEXTS, SIZE)
    text = tokenizer_text(tokenizer)
    assert all(isinstance(merge, str) for merge in json.loads(text)["model"]["merges"])
    assert Tokenizer.from_str(text).to_str() == tokenizer.to_str()
