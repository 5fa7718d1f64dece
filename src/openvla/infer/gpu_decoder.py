"""A packed decoder on a GPU, its small steps drawn into the large ones.

One token of one row takes five launches a layer (`nn/gpu_row.py`). One token of each of several rows takes matrix
products for few rows and a kernel for the whole attention. Everything else is the module's own way, but for one kernel
that adds to the residual and norms it.

Shapes: B rows, T tokens of a pass, C hidden size, S slots of the cache, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from openvla.infer.cache import StaticCache
from openvla.nn.attention import rotary_angles
from openvla.nn.decoder import Transformer, check_window
from openvla.nn.quantized import gpu_kernels


def accelerated(decoder: Transformer) -> Transformer | GpuDecoder:
    """The decoder for its device: itself where the kernels do not apply."""
    config, weight = decoder.config, decoder.embed_tokens.weight
    power = config.head_dim & (config.head_dim - 1) == 0
    fits = weight.is_cuda and weight.dtype == torch.bfloat16 and config.family != "phi" and power
    return GpuDecoder(decoder) if fits else decoder


class GpuDecoder:
    """Called as `Transformer`, with a `StaticCache`. decoder: packed, sequential layers, in bfloat16."""

    def __init__(self, decoder: Transformer) -> None:
        self._kernels = gpu_kernels()
        from openvla.nn import gpu_row  # which needs what `gpu_kernels` has asked for

        self._row = gpu_row
        self._config, self._norm = decoder.config, decoder.norm
        self._layers: list[Any] = list(decoder.layers)
        self.embed_tokens: nn.Embedding = decoder.embed_tokens
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self,
        x: Float[Tensor, "B T C"],
        positions: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B 1 T S"] | None,
        cache: StaticCache,
    ) -> Float[Tensor, "B T C"]:
        """Hidden states after the final norm. Raises InputError for more tokens than the attention window."""
        check_window(self._config, x.shape[1])
        return self._one(x, positions, cache) if x.shape[:2] == (1, 1) else self._many(x, positions, mask, cache)

    def _one(self, x: Tensor, positions: Tensor, cache: StaticCache) -> Tensor:
        row, state = self._row, x.flatten()
        cos, sin = self._rotary(cache)
        for number, layer in enumerate(self._layers):
            attention, mlp = layer.self_attn, layer.mlp
            fused = row.product(state, attention.qkv, layer.input_layernorm)
            keys, values = cache.keys[number], cache.values[number]
            mixed = row.attend(fused[None], cos, sin, keys, values, positions, attention.heads[0])
            state = row.product(mixed[0], attention.out, add=state)
            gated = row.product(state, mlp.gate_up, layer.post_attention_layernorm, gated=True)
            state = row.product(gated, mlp.down, add=state)
        return self._normed(state.view_as(x), None, self._norm)[1]

    def _many(self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache) -> Tensor:
        cos, sin = self._rotary(cache)
        rotary = (cos[positions][:, None], sin[positions][:, None])
        more = None
        for number, layer in enumerate(self._layers):
            attention = layer.self_attn
            x, normed = self._normed(x, more, layer.input_layernorm)
            fused = attention.qkv(normed)
            if x.shape[1] == 1:
                keys, values = cache.keys[number], cache.values[number]
                mixed = self._row.attend(fused[:, 0], cos, sin, keys, values, positions, attention.heads[0])[:, None]
            else:
                mixed = attention.mix(fused, rotary, mask, cache)
            x, normed = self._normed(x, attention.out(mixed), layer.post_attention_layernorm)
            more = layer.mlp(normed)
        return self._normed(x, more, self._norm)[1]

    def _normed(self, x: Tensor, more: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        return self._kernels.rms_norm(x, norm.weight, norm.eps, more)

    def _rotary(self, cache: StaticCache) -> tuple[Tensor, Tensor]:
        """Cosines and sines (S, D) of every position of the cache; they stay where they are, for the graphs."""
        if cache.capacity not in self._tables:
            places = torch.arange(cache.capacity, device=cache.keys.device)
            angles = rotary_angles(places, self._config.head_dim, self._config.rope_theta)
            self._tables[cache.capacity] = (angles.cos().to(cache.keys.dtype), angles.sin().to(cache.keys.dtype))
        return self._tables[cache.capacity]
