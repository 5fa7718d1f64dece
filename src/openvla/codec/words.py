"""Words to token ids: the prompt that asks for an action, and any other text of a training sequence.

Unusual: a prompt ends with the lone "▁" that published training has before the action tokens; it is appended as an id,
because a tokenizer makes none of a trailing space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from openvla.codec.prompt import Prompt
from openvla.errors import CheckpointError

PROMPTS_KEPT = 4096
"""Instructions whose ids are remembered; more are forgotten all at once."""


@dataclass(frozen=True, eq=False)
class Words:
    """tokenizer: None where the checkpoint has none; then every method raises CheckpointError.

    prompt, bos_token_id, suffix_token_id: as in `codec.Codec`.
    """

    tokenizer: Tokenizer | None
    prompt: Prompt
    bos_token_id: int
    suffix_token_id: int | None

    def of_prompt(self, instruction: str) -> list[int]:
        """Ids of the prompt for one instruction, first token of the sequence included, ending with the suffix token."""
        known = self._prompts.get(instruction)
        if known is None:
            known = tuple(self._tokenize(instruction))
            if len(self._prompts) >= PROMPTS_KEPT:
                self._prompts.clear()
            self._prompts[instruction] = known
        return list(known)

    def of_opening(self, text: str) -> list[int]:
        """Ids of the text that a sequence opens with, its first token included.

        Raises CheckpointError for a tokenizer that puts another token first.
        """
        ids = self.of_text(text)
        if not ids or ids[0] != self.bos_token_id:
            raise CheckpointError(
                f"the tokenizer starts the prompt with id {ids[0] if ids else 'none'}, not with bos_token_id "
                f"{self.bos_token_id}; use the tokenizer.json that belongs to the checkpoint"
            )
        return ids

    def of_text(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of any text; `special`: with what the tokenizer puts before it."""
        if self.tokenizer is None:
            raise CheckpointError(
                "the checkpoint has no tokenizer, so it cannot read instructions; "
                "copy the tokenizer.json of its language model into the directory"
            )
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def _tokenize(self, instruction: str) -> list[int]:
        ids = self.of_opening(self.prompt.render(instruction))
        if self.suffix_token_id is not None and ids[-1] != self.suffix_token_id:
            ids.append(self.suffix_token_id)
        return ids

    @cached_property
    def _prompts(self) -> dict[str, tuple[int, ...]]:
        """Ids by instruction: a data set repeats its instructions with every frame, a robot with every action."""
        return {}
