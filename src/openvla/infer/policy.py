"""A checkpoint that acts: codec and engine behind the `Policy` protocol.

Shapes: B observations, C, S channels and size of the image input, chunk consecutive actions of dim values, K = chunk *
dim tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.codec.statistics import select
from openvla.infer.engine import Engine, Limits
from openvla.infer.loading import load_packed
from openvla.infer.packing import pack
from openvla.infer.scheduler import Stepper
from openvla.infer.speculation import Memory
from openvla.infer.stored import save_packed
from openvla.model.checkpoint import Checkpoint
from openvla.nn.hardware import pick_device
from openvla.spec import Action, ActionSpec, Observation, conventional_spec

Decoding = Literal["bins", "published"]
"""What may be decoded. "bins": the tokens that stand for action bins, and nothing else. "published": any token of the
vocabulary; and where the stop token comes early, the action is what the published code takes for it, the last K tokens
of prompt and answer."""

REMEMBERED_PROMPTS = 256


def load_policy(
    source: str | Path,
    *,
    statistics: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    revision: str | None = None,
    decoding: Decoding = "bins",
    speculate: bool | None = None,
    max_batch: int = 64,
    max_prompt: int = 512,
) -> LocalPolicy:
    """Load a policy from a directory, a shipped name ("nano") or a hub id ("openvla/openvla-7b").

    statistics: key of the data set whose action range applies (the published `unnorm_key`); None is enough where the
        checkpoint has one.
    device: "auto" takes the GPU where there is one.
    dtype: "bf16", "fp16", "fp32"; "auto" keeps the stored one where the hardware multiplies it natively, else float32.
    quantize: hold the decoder's weights in "int8", "int4" or (on GPUs that have it) "fp8"; None leaves them as they
        were stored. revision: of a hub id.
    decoding: "bins" or "published", see `Decoding`. speculate: see `LocalPolicy`.
    max_batch, max_prompt: observations of one call and tokens of one prompt, at most; memory is taken as it is needed.
    Raises CheckpointError and DataError for a checkpoint that cannot be loaded, UsageError for every other argument and
    where the weights do not fit the memory.
    """
    checkpoint = load_packed(source, device=pick_device(device), dtype=dtype, quantize=quantize, revision=revision)
    if checkpoint.codec.statistics or statistics is not None:
        select(checkpoint.codec.statistics, statistics)
    limits = Limits(max_batch, max_prompt)
    return LocalPolicy(checkpoint, statistics, decoding=decoding, speculate=speculate, limits=limits, packed=True)


class LocalPolicy:
    """Acts with a loaded checkpoint, greedily. Of an episode it remembers the newest actions, as guesses of the next.

    speculate: check guesses in each pass (the tokens are the same, the passes fewer); None does it where it measures
        faster, which is on the CPU.
    packed: the checkpoint's model is packed already, else a packed copy is made.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        statistics: str | None = None,
        *,
        decoding: Decoding = "bins",
        speculate: bool | None = None,
        limits: Limits | None = None,
        packed: bool = False,
    ) -> None:
        weight = checkpoint.model.language_model.model.embed_tokens.weight
        self.model = checkpoint.model if packed else pack(checkpoint.model, weight.device, weight.dtype)
        self.codec: Codec = checkpoint.codec
        self.limits = limits or Limits()
        self.decoding = decoding
        self.speculate = weight.device.type == "cpu" if speculate is None else speculate
        self._checkpoint = replace(checkpoint, model=self.model)
        self._statistics = statistics
        self._prompts: dict[str, list[int]] = {}
        self._memory = Memory()

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean; where the checkpoint does not say, what is usual for as many as its statistics have.

        Raises CheckpointError where there are no statistics either.
        """
        if self.codec.action is None and self.codec.statistics:
            return conventional_spec(select(self.codec.statistics, self._statistics).action.dim)
        return self.codec.spec

    def act(self, observation: Observation) -> Action:
        """The next action chunk for one observation. Raises InputError, CheckpointError for what the codec refuses."""
        return self.act_batch([observation])[0]

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        """One action per observation, computed together and the same as alone.

        `timing_ms` is that of the whole batch, with two entries that are no times: `passes` over the decoder, and
        `tokens_per_pass`. Raises InputError beyond the limits.
        """
        if not observations:
            return []
        start = time.perf_counter()
        self.engine.check_rows(len(observations))
        prompts = [self.prompt(each.instruction) for each in observations]
        pixels = self.pixels(observations)
        ready = time.perf_counter()
        streams = [each.instruction for each in observations]
        generation = self.engine.act(prompts, pixels, self._memory.guess(streams) if self.speculate else None)
        decoded = time.perf_counter()
        tokens, probabilities = generation.tokens.cpu().numpy(), generation.probabilities.cpu().numpy()
        self._memory.remember(streams, tokens)
        answers = [self.answer(*each) for each in zip(prompts, tokens, probabilities, strict=True)]
        end = time.perf_counter()
        seconds = {"preprocess": ready - start, **generation.seconds, "post": end - decoded, "total": end - start}
        timing = {phase: 1000 * value for phase, value in seconds.items()}
        timing |= {"passes": generation.passes, "tokens_per_pass": tokens.shape[1] / generation.passes}
        return [Action(values, ids, confidence, timing) for values, ids, confidence in answers]

    def stepper(self, capacity: int) -> Stepper:
        """Continuous batching: observations join while others are being decoded. It has a cache of its own.

        Raises InputError for a capacity beyond the limits.
        """
        self.engine.check_rows(capacity)
        return Stepper(self, self._engine(), capacity)

    def save(self, directory: str | Path) -> None:
        """Write a quantised policy to a new directory, from which it starts without the original weights.

        Raises CheckpointError where it is not quantised, or the directory exists or cannot be written.
        """
        save_packed(directory, self._checkpoint)

    def reset(self) -> None:
        """Forget the actions so far. Only speed depends on them."""
        self._memory.clear()

    @cached_property
    def engine(self) -> Engine:
        """Decodes for `act_batch`. Raises CheckpointError where the number of action dimensions is unknown."""
        return self._engine()

    def prompt(self, instruction: str) -> list[int]:
        """Prompt ids, tokenised once per instruction."""
        if instruction not in self._prompts:
            if len(self._prompts) >= REMEMBERED_PROMPTS:
                self._prompts.clear()
            self._prompts[instruction] = self.codec.encode_prompt(instruction)
        return self._prompts[instruction]

    def pixels(self, observations: Sequence[Observation]) -> Tensor:
        """float32 (B, C, S, S): what the encoders see."""
        return torch.from_numpy(np.stack([self.codec.encode_image(each.image) for each in observations]))

    def answer(
        self, prompt: Sequence[int], tokens: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:
        """Values, tokens and confidence (chunk, dim) from what was decoded for one prompt."""
        if self.decoding == "published":
            tokens, probabilities = as_published(prompt, tokens, probabilities, self.codec.eos_token_id)
        shape = (self.codec.chunk, -1)
        tokens = tokens.reshape(shape)
        return self.codec.decode_tokens(tokens, self._statistics), tokens, probabilities.reshape(shape)

    def _engine(self) -> Engine:
        vocabulary = range(self.model.config.decoder.vocab_size)
        choices = self.codec.actions.token_range if self.decoding == "bins" else vocabulary
        return Engine(self.model, self.codec.chunk * self.spec.dim, choices, self.limits)


def as_published(
    prompt: Sequence[int], tokens: NDArray[np.int64], probabilities: NDArray[np.float32], eos: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What the published code takes for the action: generation ends with `eos`, and the last K ids are cut off.

    Ids of the prompt have the probability 0: nobody chose them.
    """
    ended = np.flatnonzero(tokens == eos)
    kept = int(ended[0]) + 1 if len(ended) else len(tokens)
    ids = np.concatenate([np.asarray(prompt, np.int64), tokens[:kept]])
    chosen = np.concatenate([np.zeros(len(prompt), probabilities.dtype), probabilities[:kept]])
    return ids[-len(tokens) :], chosen[-len(tokens) :]
