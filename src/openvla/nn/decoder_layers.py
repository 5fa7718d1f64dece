"""The layers of the language models: one sequential (Llama, Mistral, Qwen2) and one parallel (Phi).

Attribute names are the published ones of each family. Positions and mask are arguments, as in `decoder`.

Shapes: B batch, T new tokens, S cached plus new tokens, C hidden size, R rotating channels of a head.
Source: Touvron et al. 2023 (Llama 2), section 2.2; Ainslie et al. 2023 (grouped-query attention); Shazeer 2020 (GLU);
Wang and Komatsuzaki 2021 (parallel layers, partial rotary positions).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from openvla.nn.attention import KVCache, attention, rotate, rotate_part
from openvla.nn.decoder_config import DecoderConfig

Rotary = tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the quotient in float32 (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide.to(x.dtype)).to(x.dtype)


class MixedHeads(nn.Module):
    """Grouped-query attention over the cached and the new tokens, up to the output projection, whose name differs."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.rotate = rotate if config.rotary_dim == config.head_dim else rotate_part
        kv_dim = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)

    def mix(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        """Values mixed by attention, heads side by side."""
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self.rotate(query, *rotary), self.rotate(key, *rotary)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        return attention(query, key, value, mask, causal=mask is None and x.shape[1] > 1)


class CausalSelfAttention(MixedHeads):
    """The attention of Llama, Mistral and Qwen2."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        return self.o_proj(self.mix(x, rotary, mask, cache))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """A pre-norm decoder layer: attention, then the MLP."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = CausalSelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class PhiSelfAttention(MixedHeads):
    """The attention of Phi."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        return self.dense(self.mix(x, rotary, mask, cache))


class TanhGELU(nn.Module):
    """fc2(gelu(fc1(x))) with the tanh approximation of the GELU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class PhiLayer(nn.Module):
    """A parallel decoder layer: attention and MLP read the same norm, and both add to the residual."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = PhiSelfAttention(config, layer)
        self.mlp = TanhGELU(config)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        normed = self.input_layernorm(x)
        return x + self.self_attn(normed, rotary, mask, cache) + self.mlp(normed)
