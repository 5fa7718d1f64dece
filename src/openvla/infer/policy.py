"""A checkpoint that acts: codec and engine behind the `Policy` protocol.

Shapes: B observations, chunk consecutive actions of dim values.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from openvla.codec.batch import pad
from openvla.codec.codec import Codec
from openvla.codec.statistics import select
from openvla.errors import UsageError, lookup
from openvla.infer.engine import generate
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.nn.hardware import multiplies_bf16, pick_device
from openvla.spec import Action, ActionSpec, Observation, conventional_spec

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_policy(
    source: str | Path,
    *,
    statistics: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    revision: str | None = None,
) -> LocalPolicy:
    """Load a policy from a directory, a shipped name ("nano") or a hub id ("openvla/openvla-7b").

    statistics: key of the data set whose action range applies (the published `unnorm_key`); None is enough where the
        checkpoint has one.
    device: "auto" takes the GPU where there is one.
    dtype: "bf16", "fp16", "fp32"; "auto" keeps the stored one where the hardware multiplies it natively, else float32.
    quantize: None; other precisions are not built yet. revision: of a hub id.
    Raises CheckpointError and DataError for a checkpoint that cannot be loaded, UsageError for every other argument.
    """
    if quantize is not None:
        raise UsageError(f"quantize={quantize!r} is not available in this version; leave it out to run unquantised")
    place = pick_device(device)
    wanted = lookup(dtype, {"auto": None, **DTYPES}, "dtype")
    checkpoint = load_checkpoint(source, revision=revision)
    if checkpoint.codec.statistics or statistics is not None:
        select(checkpoint.codec.statistics, statistics)
    stored = checkpoint.model.projector.fc1.weight.dtype
    checkpoint.model.to(device=place, dtype=wanted or native_dtype(stored, place))
    return LocalPolicy(checkpoint, statistics)


class LocalPolicy:
    """Acts with a loaded checkpoint, greedily; remembers nothing of an episode."""

    def __init__(self, checkpoint: Checkpoint, statistics: str | None = None) -> None:
        self.model = checkpoint.model.eval().requires_grad_(False)
        self.codec: Codec = checkpoint.codec
        self._statistics = statistics
        self._prompts: dict[str, list[int]] = {}

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
        """One action per observation, computed together; `timing_ms` is that of the whole batch."""
        if not observations:
            return []
        start = time.perf_counter()
        weight = self.model.projector.fc1.weight
        ids, mask = pad([self._prompt(each.instruction) for each in observations], self.codec.pad_token_id)
        pixels = torch.from_numpy(np.stack([self.codec.encode_image(each.image) for each in observations]))
        ready = time.perf_counter()
        chunk, dim = self.codec.chunk, self.spec.dim
        generation = generate(
            self.model,
            torch.from_numpy(ids).to(weight.device),
            pixels.to(weight.device, weight.dtype),
            chunk * dim,
            torch.from_numpy(mask).to(weight.device),
        )
        decoded = time.perf_counter()
        shape = (len(observations), chunk, dim)
        tokens: NDArray[np.int64] = generation.tokens.cpu().numpy().reshape(shape)
        confidence: NDArray[np.float32] = generation.probabilities.cpu().numpy().reshape(shape)
        values = [self.codec.decode_tokens(row, self._statistics) for row in tokens]
        end = time.perf_counter()
        seconds = {"preprocess": ready - start, **generation.seconds, "post": end - decoded, "total": end - start}
        timing_ms = {phase: 1000 * value for phase, value in seconds.items()}
        return [Action(values[i], tokens[i], confidence[i], timing_ms) for i in range(len(observations))]

    def reset(self) -> None:
        """Nothing is remembered between calls."""

    def _prompt(self, instruction: str) -> list[int]:
        """Prompt ids, tokenised once per instruction."""
        if instruction not in self._prompts:
            if len(self._prompts) >= 256:
                self._prompts.clear()
            self._prompts[instruction] = self.codec.encode_prompt(instruction)
        return self._prompts[instruction]


def native_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """`stored` if `device` multiplies it natively, else float32."""
    native = (stored == torch.bfloat16 and multiplies_bf16(device)) or (
        stored == torch.float16 and device.type == "cuda"
    )
    return stored if native else torch.float32
