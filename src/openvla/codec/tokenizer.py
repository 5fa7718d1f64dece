"""A tokenizer for small models: Llama's algorithm with a vocabulary learned from the instructions at hand.

Byte-pair encoding in which a space is "▁", one is put before the text, and a character outside the alphabet becomes its
UTF-8 bytes, so that any text has ids and decodes to itself ("▁" and the names of special tokens excepted). Layout:

    0 <unk>, 1 <s>, 2 </s> | 3..258 bytes | "▁", printable ASCII | merges | unused | 256 action tokens | <PAD>

<PAD> is an added token with id `vocab_size`, as published. Action tokens and unused entries have no merges, so text
never produces them. Training splits text into words, digits and single signs; no merge crosses a boundary, which keeps
the names of the other entries, such as <0x0A>, out of reach of text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from openvla.errors import InputError

SPACE = "▁"
SPECIAL = ("<unk>", "<s>", "</s>")
ACTION_TOKENS = 256

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_ALPHABET = [SPACE, *map(chr, range(0x21, 0x7F))]
_FIXED = [*SPECIAL, *_BYTES, *_ALPHABET]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from `texts`; the same texts, in any order, give the same tokenizer.

    vocab_size: entries in all, action tokens included and <PAD> not; what the texts leave over stays unused.
    Raises InputError where the fixed entries do not fit.
    """
    room = vocab_size - len(_FIXED) - ACTION_TOKENS
    if room < 0:
        raise InputError(
            f"a vocabulary of {vocab_size} is too small: bytes, letters and action tokens take "
            f"{len(_FIXED) + ACTION_TOKENS}; choose at least that many"
        )
    merges = _learn_merges(texts, room)
    words = list(dict.fromkeys(left + right for left, right in merges))  # two merges may spell the same entry
    unused = [f"<unused_{i}>" for i in range(room - len(words))]
    actions = [f"<action_{i}>" for i in range(ACTION_TOKENS)]
    entries = [*_FIXED, *words, *unused, *actions]
    return _assemble({entry: i for i, entry in enumerate(entries)}, merges)


def _learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """Up to `count` merges, most frequent first."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}?(?:[A-Za-z]+|.)"), "isolated")
    # Every letter of the alphabet counts, seen or not, so `count` entries are left for merges.
    trainer = trainers.BpeTrainer(
        vocab_size=len(_ALPHABET) + count,
        initial_alphabet=_ALPHABET,
        limit_alphabet=len(_ALPHABET),
        show_progress=False,
    )
    learner.train_from_iterator(sorted(texts), trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in pairs]


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=SPECIAL[0], fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = _normalizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[1]} $A", special_tokens=[(SPECIAL[1], vocabulary[SPECIAL[1]])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (*SPECIAL, "<PAD>")])
    return tokenizer


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def tokenizer_text(tokenizer: Tokenizer) -> str:
    """tokenizer.json with each merge as one string, "a b".

    Libraries before tokenizers 0.20, the one that the published classes are pinned to among them, read no other form;
    later ones read both. Merges stay pairs where a token of theirs holds a space, which a string cannot say.
    """
    content = json.loads(tokenizer.to_str())
    merges = content["model"].get("merges", [])
    if not any(" " in part for pair in merges for part in pair):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
