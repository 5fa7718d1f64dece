"""The language model: a Llama-style decoder (pre-norm, rotary positions, SwiGLU, grouped-query attention).

`forward` takes embeddings, not ids, because image patches have no ids. Positions and mask are arguments: the same code
serves training, a right-padded batch and one decode step. Attribute names are the published ones.

Shapes: B batch, T new tokens, S cached plus new tokens, C hidden size, V vocabulary.
Source: Touvron et al. 2023 (Llama 2), section 2.2; Ainslie et al. 2023 (grouped-query attention); Shazeer 2020 (GLU).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from openvla.nn.attention import KVCache, attention, rotary_angles, rotate


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the language model; the defaults are those of Llama-2 7B.

    vocab_size: rows of the embedding, padding included.
    rms_norm_eps: 1e-6 in published Hugging Face exports, 1e-5 in native training; the same weights, other outputs.
    """

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.hidden_size // self.num_attention_heads


Rotary = tuple[Float[Tensor, "B 1 T D"], Float[Tensor, "B 1 T D"]]


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


class CausalSelfAttention(nn.Module):
    """Grouped-query attention over the cached and the new tokens."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv_dim = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache | None
    ) -> Float[Tensor, "B T C"]:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if cache is not None:
            key, value = cache.append(self.layer, key, value)
        return self.o_proj(attention(query, key, value, mask, causal=mask is None and x.shape[1] > 1))


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
    """A pre-norm decoder layer."""

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


class Transformer(nn.Module):
    """Embedding table, decoder layers and final norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        positions: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Hidden states after the final norm. `mask` is True where a query may look.

        Without `mask` attention is causal over `x`, which then must be the first tokens in `cache` or a single one.
        """
        angles = rotary_angles(positions[:, None], self.config.head_dim, self.config.rope_theta)
        rotary = (angles.cos(), angles.sin())
        for layer in self.layers:
            x = layer(x, rotary, mask, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)


class Decoder(nn.Module):
    """The transformer and its output head. The two vocabulary matrices are not tied."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def make_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `capacity` tokens per row, on the device and in the dtype of the weights."""
        weight, config = self.model.embed_tokens.weight, self.config
        return KVCache(
            config.num_hidden_layers,
            batch,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
            weight.dtype,
            weight.device,
        )
