"""A packed decoder, its small steps drawn together: one kernel adds to the residual and norms it.

On a GPU, one token of one row takes five launches a layer (`nn/gpu_row.py`), and one token of each of several rows a
kernel for the whole attention. Everything else is the modules' own way.

Shapes: B rows, T tokens of a pass, C hidden size, H all heads side by side, S slots of the cache, D head dimension.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from openvla.infer.cache import StaticCache
from openvla.nn.attention import rotary_angles
from openvla.nn.decoder import Transformer, check_window
from openvla.nn.kernels import fused_kernels, gpu_kernels

Mask = Bool[Tensor, "B 1 T S"] | None


class Pass(NamedTuple):
    """What one pass is about. rotary: cosines and sines at the positions."""

    positions: Int[Tensor, "B T"]
    rotary: tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]]
    mask: Mask
    cache: StaticCache


def accelerated(decoder: Transformer) -> Transformer | FusedDecoder:
    """The decoder for its device: itself where no kernels apply."""
    config, weight = decoder.config, decoder.embed_tokens.weight
    if weight.dtype != torch.bfloat16 or config.family == "phi":
        return decoder
    if weight.is_cuda:
        return GpuDecoder(decoder) if config.head_dim & (config.head_dim - 1) == 0 else decoder
    kernels = fused_kernels(weight)
    return decoder if kernels is None else FusedDecoder(decoder, kernels)


class FusedDecoder:
    """Called as `Transformer`, with a `StaticCache`. decoder: packed, sequential layers, in bfloat16.

    kernels: a module that `fused_kernels` gives.
    """

    def __init__(self, decoder: Transformer, kernels: Any) -> None:
        self._kernels = kernels
        self.config, self._norm = decoder.config, decoder.norm
        self._layers: list[Any] = list(decoder.layers)
        self.embed_tokens: nn.Embedding = decoder.embed_tokens
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, x: Float[Tensor, "B T C"], positions: Int[Tensor, "B T"], mask: Mask, cache: StaticCache
    ) -> Float[Tensor, "B T C"]:
        """Hidden states after the final norm. Raises InputError for more tokens than the attention window."""
        check_window(self.config, x.shape[1])
        cos, sin = self.rotary(cache)
        here = Pass(positions, (cos[positions][:, None], sin[positions][:, None]), mask, cache)
        more = None
        for number, layer in enumerate(self._layers):
            x, normed = self.normed(x, more, layer.input_layernorm)
            fused = layer.self_attn.qkv(normed)
            mixed = self.mixed(number, fused, here)
            x, normed = self.normed(x, layer.self_attn.out(mixed), layer.post_attention_layernorm)
            more = layer.mlp(normed)
        return self.normed(x, more, self._norm)[1]

    def mixed(self, number: int, fused: Float[Tensor, "B T H"], here: Pass) -> Float[Tensor, "B T C"]:
        """The attention of one layer over queries, keys and values side by side."""
        return self._layers[number].self_attn.mix(fused, here.rotary, here.mask, here.cache)

    def normed(self, x: Tensor, more: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        """The sum x + more, and its norm."""
        return self._kernels.rms_norm(x, norm.weight, norm.eps, more)

    def rotary(self, cache: StaticCache) -> tuple[Float[Tensor, "S D"], Float[Tensor, "S D"]]:
        """Cosines and sines of every position of the cache; they stay where they are, for the graphs of a GPU."""
        if cache.capacity not in self._tables:
            places = torch.arange(cache.capacity, device=cache.keys.device)
            angles = rotary_angles(places, self.config.head_dim, self.config.rope_theta)
            self._tables[cache.capacity] = (angles.cos().to(cache.keys.dtype), angles.sin().to(cache.keys.dtype))
        return self._tables[cache.capacity]


class GpuDecoder(FusedDecoder):
    """With the kernels for one token."""

    def __init__(self, decoder: Transformer) -> None:
        super().__init__(decoder, gpu_kernels())
        from openvla.nn import gpu_row  # which needs what `gpu_kernels` has asked for

        self._row = gpu_row

    def __call__(
        self, x: Float[Tensor, "B T C"], positions: Int[Tensor, "B T"], mask: Mask, cache: StaticCache
    ) -> Float[Tensor, "B T C"]:
        if x.shape[:2] != (1, 1):
            return super().__call__(x, positions, mask, cache)
        row, state = self._row, x.flatten()
        cos, sin = self.rotary(cache)
        for number, layer in enumerate(self._layers):
            attention, mlp = layer.self_attn, layer.mlp
            fused = row.product(state, attention.qkv, layer.input_layernorm)
            keys, values = cache.keys[number], cache.values[number]
            mixed = row.attend(fused[None], cos, sin, keys, values, positions, attention.heads[0])
            state = row.product(mixed[0], attention.out, add=state)
            gated = row.product(state, mlp.gate_up, layer.post_attention_layernorm, gated=True)
            state = row.product(gated, mlp.down, add=state)
        return self.normed(state.view_as(x), None, self._norm)[1]

    def mixed(self, number: int, fused: Float[Tensor, "B T H"], here: Pass) -> Float[Tensor, "B T C"]:
        if fused.shape[1] > 1:
            return super().mixed(number, fused, here)
        keys, values = here.cache.keys[number], here.cache.values[number]
        tables, heads = self.rotary(here.cache), self._layers[number].self_attn.heads[0]
        return self._row.attend(fused[:, 0], *tables, keys, values, here.positions, heads)[:, None]
