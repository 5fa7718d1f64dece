"""Scaled dot-product attention, rotary positions and the key/value cache: the only file that names a kernel.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), T new tokens, S cached plus new tokens, D head
dimension, R rotating channels of a head.
Source: rotary embedding, Su et al. 2021, equation 34, in the half-rotated layout of Llama.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from openvla.errors import InputError
from openvla.nn import amx


def attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G S D"],
    value: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "B 1 T S"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "B T H*D"]:
    """softmax(Q K^T / sqrt(D)) V with heads merged. `mask` is True where a query may look; `causal` excludes `mask`."""
    if amx.applies(query, key, value) and (not causal or query.shape[2] == key.shape[2]):
        return amx.attention(query, key, value, mask, causal)
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=query.shape[1] != key.shape[1]
    )
    return mixed.transpose(1, 2).flatten(2)


def rotary_angles(positions: Int[Tensor, "*batch T"], head_dim: int, theta: float) -> Float[Tensor, "*batch T D"]:
    """Angle m * theta^(-2i/D) of every position m and pair i, in float32, repeated for the two halves of a head."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() * theta ** (-pairs / head_dim)
    return torch.cat([angles, angles], dim=-1)


def rotate(
    heads: Float[Tensor, "B N T D"], cos: Float[Tensor, "*b T D"], sin: Float[Tensor, "*b T D"]
) -> Float[Tensor, "B N T D"]:
    """Turn each pair (x_i, x_{i+D/2}) by its angle, in the dtype of `heads`."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos.to(heads.dtype) + torch.cat([-second, first], dim=-1) * sin.to(heads.dtype)


def rotate_part(
    heads: Float[Tensor, "B N T D"], cos: Float[Tensor, "*b T R"], sin: Float[Tensor, "*b T R"]
) -> Float[Tensor, "B N T D"]:
    """`rotate` the first R channels of each head and leave the others."""
    turned, kept = heads.split([cos.shape[-1], heads.shape[-1] - cos.shape[-1]], dim=-1)
    return torch.cat([rotate(turned, cos, sin), kept], dim=-1)


class KVCache:
    """Keys and values of every layer in buffers allocated once, so that a decode step moves no memory but its own.

    A slot is where a token is stored; its position (for the rotary angle) may differ when a batch is right-padded.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, batch, kv_heads, capacity, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(
        self, layer: int, key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T D"]
    ) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
        """Store the new tokens of one layer and return all its keys and values so far.

        Call `advance` after the last layer. Raises InputError where the new tokens do not fit.
        """
        end = self.length + key.shape[2]
        if end > self.capacity:
            raise InputError(
                f"the KV cache holds {self.capacity} tokens and {end} are needed; build it with a larger capacity"
            )
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more slots as filled in every layer."""
        self.length += tokens
