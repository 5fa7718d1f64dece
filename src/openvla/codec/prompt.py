"""The prompt, written once: what the model reads around the instruction, in training and at inference.

The text has no trailing space: the space that published training has before the first action token is a token of its
own, which `codec` appends as `suffix_token_id`.

Source: OpenVLA (arXiv:2406.09246), section 3.2; Vicuna v1.5 conversation template for v0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla.errors import InputError

_QUESTION = "What action should the robot take to {instruction}?"

PROMPTS = {
    "openvla": f"In: {_QUESTION}\nOut:",
    "openvla-v01": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        f"USER: {_QUESTION} ASSISTANT:"
    ),
}


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
