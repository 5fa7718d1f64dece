"""What depends on the language model alone: its prompt and its special tokens, one row per published family.

`suffix` is the lone space that published training has between prompt and action tokens. It is a token of its own only
where the tokenizer writes spaces as "▁": id 29871 in Llama's vocabulary, another one in Mistral's, none in Phi's and
Qwen's. `bos` is the first token of a prompt; Qwen has no token for that, and begins with <|im_start|>.

Source: the published backbones; Prismatic VLMs (arXiv:2402.07865), and the MiniVLA release for Qwen.
"""

from __future__ import annotations

from dataclasses import dataclass

LLAMA_SUFFIX_TOKEN = 29871
MISTRAL_SUFFIX_TOKEN = 28705


@dataclass(frozen=True)
class Family:
    """chat: a key of `conversation.CHATS` and `prompt.PROMPTS`. bos, eos, pad, suffix: token ids."""

    chat: str
    bos: int
    eos: int
    pad: int
    suffix: int | None


FAMILIES = {
    "llama2-7b-pure": Family("pure", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "llama2-13b-pure": Family("pure", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "llama2-7b-chat": Family("llama2-chat", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "llama2-13b-chat": Family("llama2-chat", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "vicuna-v15-7b": Family("vicuna-v15", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "vicuna-v15-13b": Family("vicuna-v15", 1, 2, 32000, LLAMA_SUFFIX_TOKEN),
    "mistral-v0.1-7b-pure": Family("pure", 1, 2, 32000, MISTRAL_SUFFIX_TOKEN),
    "mistral-v0.1-7b-instruct": Family("mistral-instruct", 1, 2, 32000, MISTRAL_SUFFIX_TOKEN),
    "phi-2-3b": Family("phi", 50256, 50256, 50295, None),
    "qwen25-0_5b-pure": Family("qwen", 151644, 151645, 151643, None),
    "qwen25-0_5b-extra": Family("qwen", 151644, 151645, 151643, None),
    "qwen25-1_5b-pure": Family("qwen", 151644, 151645, 151643, None),
    "qwen25-3b-pure": Family("qwen", 151644, 151645, 151643, None),
}
"""By the language model's id in config.json (`llm_backbone_id`)."""
