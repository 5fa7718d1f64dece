"""The vision transformer behind every encoder: DINOv2, SigLIP, CLIP and IN1K are configurations of it.

Unusual: the features are the output of the second-to-last block, without the final norm; the last block, the final norm
and SigLIP's attention pool are in every published checkpoint and are never run. Attribute names are the published ones.

Shapes: B batch, P patches, R prefix tokens (class and registers), C channels, N = R + P.
Source: Dosovitskiy et al. 2021; Radford et al. 2021 (CLIP); Oquab et al. 2023 (DINOv2); Darcet et al. 2023 (registers);
Zhai et al. 2023 (SigLIP); Steiner et al. 2022 (IN1K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from openvla.nn.attention import attention

Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of one encoder.

    prefix_tokens: 0, or 1 for a class token and 1 for each register.
    attention_pool: whether the checkpoint stores SigLIP's (unused) pooling head.
    class_position: the class token has a position embedding too (CLIP, IN1K); registers never have one.
    norm_pre: a norm before the first block (CLIP).
    patch_bias: the patch embedding has a bias (all but CLIP).
    activation: the exact (erf) GELU, or CLIP's x * sigmoid(1.702 x).
    """

    image_size: int
    patch_size: int
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    prefix_tokens: int = 0
    layer_scale: bool = False
    attention_pool: bool = False
    norm_eps: float = 1e-6
    class_position: bool = False
    norm_pre: bool = False
    patch_bias: bool = True
    activation: Activation = "gelu"

    @property
    def num_patches(self) -> int:
        """Patches per image; pixels beyond the last whole patch are unused."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Rows of the position embedding."""
        return self.num_patches + self.class_position


def quick_gelu(x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
    """The GELU that CLIP was trained with, x * sigmoid(1.702 x) (Hendrycks and Gimpel 2016)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class PatchEmbedding(nn.Module):
    """Non-overlapping patches to vectors, row by row."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch_size, config.patch_size, bias=config.patch_bias)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P C"]:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Bidirectional multi-head attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attention(query, key, value))


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.activation = ACTIVATIONS[config.activation]
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        return self.fc2(self.activation(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021, equation 4)."""

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        return x * self.scale_factor


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.norm_eps)
        self.attn = SelfAttention(config)
        self.ls1 = LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)
        self.ls2 = LayerScale(config.dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """SigLIP's pooling head. Published checkpoints hold its weights; a vision-language-action model never runs it."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.q = nn.Linear(config.dim, config.dim)
        self.kv = nn.Linear(config.dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)


class VisionTransformer(nn.Module):
    """An image encoder that returns one feature vector per patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_positions, config.dim))
        nn.init.normal_(self.pos_embed, std=0.02)
        if config.prefix_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        if config.prefix_tokens > 1:
            self.reg_token = nn.Parameter(torch.zeros(1, config.prefix_tokens - 1, config.dim))
        if config.norm_pre:
            self.norm_pre = nn.LayerNorm(config.dim, config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P C"]:
        x = self.embed(pixels)
        for block in list(self.blocks)[:-1]:
            x = block(x)
        return x[:, self.config.prefix_tokens :]

    def embed(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B N C"]:
        """What the first block reads."""
        x = self._with_prefix(self.patch_embed(pixels))
        return self.norm_pre(x) if self.config.norm_pre else x

    def _with_prefix(self, x: Float[Tensor, "B P C"]) -> Float[Tensor, "B N C"]:
        """Add the positions and put class token and registers before the patches."""
        positions = self.pos_embed.to(x.dtype)
        if not self.config.prefix_tokens:
            return x + positions
        registers = [self.reg_token] if self.config.prefix_tokens > 1 else []
        prefix = torch.cat([self.cls_token, *registers], dim=1).to(x.dtype).expand(x.shape[0], -1, -1)
        if not self.config.class_position:
            return torch.cat([prefix, x + positions], dim=1)
        return torch.cat([prefix[:, :1] + positions[:, :1], prefix[:, 1:], x + positions[:, 1:]], dim=1)
