"""Greedy decoding over a KV cache: one prefill with the image, then one step per further token.

Shapes: B batch, T prompt tokens (right-padded), P patches, K tokens to generate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from openvla.model.prismatic import OpenVLA, causal_mask


@dataclass(frozen=True)
class Generation:
    """tokens: int64 (B, K). probabilities: float32 (B, K), of each chosen token. seconds: by phase."""

    tokens: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    seconds: dict[str, float]


@torch.inference_mode()
def generate(
    model: OpenVLA,
    input_ids: Int[Tensor, "B T"],
    pixel_values: Float[Tensor, "B C S S"],
    count: int,
    attention_mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"] | None = None,
) -> Generation:
    """`count` tokens (at least 1), each the most probable of the whole vocabulary, as published.

    `attention_mask` is 1 for tokens and 0 for right padding; each row continues where its own prompt ends.
    The stop token does not stop: an action has a fixed number of tokens.
    """
    clock = Clock(input_ids.device)
    decoder = model.language_model
    fused = model.embed(input_ids, pixel_values)
    clock.lap("vision")
    batch, length, _ = fused.shape
    present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    present = model.insert_patches(present.bool(), True)
    ragged = not bool(present.all())
    cache = decoder.make_cache(batch, length + count)
    positions = torch.arange(length, device=fused.device).expand(batch, -1)
    hidden = decoder.model(fused, positions, causal_mask(present) if ragged else None, cache)
    position = present.sum(1, keepdim=True)  # of the first new token of each row
    hidden = hidden[torch.arange(batch, device=hidden.device), position[:, 0] - 1]
    clock.lap("prefill")
    tokens, probabilities = [], []
    for step in range(count):
        if step:
            present = torch.cat([present, present.new_ones(batch, 1)], dim=1)
            mask = present[:, None, None] if ragged else None
            embedded = decoder.model.embed_tokens(tokens[-1])
            hidden = decoder.model(embedded, position + step - 1, mask, cache)[:, 0]
        scores = decoder.lm_head(hidden).float()
        tokens.append(scores.argmax(-1, keepdim=True))
        probabilities.append(scores.softmax(-1).gather(1, tokens[-1]))
    clock.lap("decode")
    return Generation(torch.cat(tokens, 1), torch.cat(probabilities, 1), clock.seconds)


class Clock:
    """Seconds by phase, with the device's queue drained at each lap."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Book the time since the last lap on `phase`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
