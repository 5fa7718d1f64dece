"""The prompt, written once: what the model reads around the instruction, in training and at inference.

One template per language model, each a single turn of its chat format. The text has no trailing space: the space that
published training has before the first action token is a token of its own, which `codec` appends as `suffix_token_id`.

Source: OpenVLA (arXiv:2406.09246), section 3.2; `conversation` for the chat formats.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla.codec.conversation import CHATS, single_turn
from openvla.errors import CheckpointError, InputError

_QUESTION = "What action should the robot take to {instruction}?"

PROMPTS = {
    "openvla": single_turn("pure", _QUESTION),
    "openvla-v01": single_turn("vicuna-v15", _QUESTION),
    **{chat: single_turn(chat, _QUESTION) for chat in CHATS},
}
"""Templates for `Prompt`: of OpenVLA, of its first version, and of every chat format."""


@dataclass(frozen=True)
class Prompt:
    """A template with one `{instruction}`; everything else in it is literal, braces included.

    Raises InputError for a template without `{instruction}` or with several.
    """

    template: str = PROMPTS["openvla"]

    def __post_init__(self) -> None:
        found = self.template.count("{instruction}")
        if found != 1:
            raise InputError(
                f"the prompt template {self.template!r} holds {found} times '{{instruction}}'; write it exactly once"
            )

    def render(self, instruction: str) -> str:
        """The text for one instruction, which is lower-cased as in published training.

        Raises InputError for an instruction that is empty or cannot be written as UTF-8.
        """
        if not instruction.strip():
            raise InputError("the instruction is empty; say in words what the robot should do, e.g. 'open the drawer'")
        try:
            instruction.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the instruction {instruction!r} is not valid Unicode; send it as UTF-8") from error
        return self.template.replace("{instruction}", instruction.lower())


def chat_of(prompt: Prompt) -> str:
    """The chat format that a prompt is one turn of, a key of `CHATS`. Raises CheckpointError where it is of none."""
    for chat in CHATS:
        if PROMPTS[chat] == prompt.template:
            return chat
    raise CheckpointError(
        f"the checkpoint's prompt {prompt.template!r} is of none of the chat formats {', '.join(CHATS)}, so it does "
        "not say how a conversation is written; use a checkpoint with a published prompt"
    )
