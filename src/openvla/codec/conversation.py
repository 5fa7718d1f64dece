"""What a vision-language model reads and writes in turns: the chat formats it was trained with, string for string.

A person speaks first, then both take turns. As published, a message loses "<image>" and the white space around it, an
empty answer becomes one space, and the prompt that ends with a person's turn ends where the model is to go on, without
a trailing space (Qwen's keeps its line break). The tokenizer puts the first token of the sequence, except Phi's and
Qwen's, whose strings spell it.

Two things look like slips and are not ours to mend, because models were trained on them: the Llama-2 system prompt
opens with "<<SYS>", one bracket short, and Qwen's system prompt precedes the conversation without being part of a turn.

Source: Prismatic VLMs (arXiv:2402.07865), the prompt builders of the published code.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla.errors import InputError, lookup

_LLAMA2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
_QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass(frozen=True)
class ChatFormat:
    """How turns are written; "{m}" stands for the message.

    person, model: a turn of either.
    first: the person's first turn, where it differs.
    opening: written before all turns.
    closing: written after a finished answer, in place of its line break; None leaves the answer as it is.
    strips: whether the prompt loses its trailing white space.
    """

    person: str
    model: str
    first: str | None = None
    opening: str = ""
    closing: str | None = None
    strips: bool = True


CHATS = {
    "pure": ChatFormat("In: {m}\nOut: ", "{m}</s>"),
    "llama2-chat": ChatFormat(
        "[INST] {m} [/INST] ", "{m}</s>", first=f"[INST] <<SYS>\n{_LLAMA2_SYSTEM}\n<</SYS>>\n\n{{m}} [/INST] "
    ),
    "vicuna-v15": ChatFormat(
        "USER: {m} ASSISTANT: ", "{m}</s>", first=f"{_VICUNA_SYSTEM} USER: {{m}} ASSISTANT: "
    ),
    "mistral-instruct": ChatFormat("[INST] {m} [/INST] ", "{m}</s>"),
    "phi": ChatFormat(
        "Input: {m}\nOutput: ", "{m}\n<|endoftext|>", first="<|endoftext|>Input: {m}\nOutput: "
    ),
    "qwen": ChatFormat(
        "<|im_start|>user\n{m}<|im_end|>\n<|im_start|>assistant\n",
        "{m}<|im_end|>\n",
        opening=f"<|im_start|>system\n{_QWEN_SYSTEM}<|im_end|>\n",
        closing="<|endoftext|>",
        strips=False,
    ),
}  # fmt: skip


class Conversation:
    r"""Turns in one chat format: a person's, a model's answer, a person's, and so on.

    >>> talk = Conversation("pure")
    >>> talk.say("What is this?"), talk.answer("A cup."), talk.say("Whose?")
    ('In: What is this?\nOut: ', 'A cup.</s>', 'In: Whose?\nOut: ')
    >>> talk.prompt
    'In: What is this?\nOut: A cup.</s>In: Whose?\nOut:'
    """

    def __init__(self, chat: str) -> None:
        """`chat`: a key of `CHATS`. Raises UsageError for another."""
        self._format = lookup(chat, CHATS, "chat format")
        self._turns: list[str] = []

    def say(self, message: str) -> str:
        """Add the person's turn and return its text. Raises InputError where the model's answer is due."""
        if len(self._turns) % 2:
            raise InputError("two turns of the person follow each other; add the model's answer first")
        template = self._format.person if self._turns or self._format.first is None else self._format.first
        return self._add(template, _cleaned(message))

    def answer(self, message: str) -> str:
        """Add the model's turn and return its text. Raises InputError where the person's turn is due."""
        if not len(self._turns) % 2:
            raise InputError("an answer follows no question; add the person's turn first")
        return self._add(self._format.model, _cleaned(message) or " ")

    @property
    def prompt(self) -> str:
        """The text so far: what the model is to continue, or, after an answer, what it is trained on."""
        chat = self._format
        text = chat.opening + "".join(self._turns)
        if chat.closing is not None and self._turns and len(self._turns) % 2 == 0:
            text = text.removesuffix("\n") + chat.closing
        return text.rstrip() if chat.strips else text

    def _add(self, template: str, message: str) -> str:
        self._turns.append(template.replace("{m}", message))
        return self._turns[-1]


def single_turn(chat: str, message: str) -> str:
    """The prompt that asks `message` and nothing else. Raises UsageError for an unknown chat format."""
    talk = Conversation(chat)
    talk.say(message)
    return talk.prompt


def _cleaned(message: str) -> str:
    return message.replace("<image>", "").strip()
