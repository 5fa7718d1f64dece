"""The encoders with residuals drawn into the norms; on a GPU side by side, each on a stream of its own.

For one picture every kernel is far too small for a GPU, and its time is that of starting and ending: fewer of them, and
those of two encoders at once.

Shapes: B pictures, K channels of all encoders, S pixels a side, P patches, C encoder channels in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from openvla.model.prismatic import VisionBackbone
from openvla.nn.kernels import fused_kernels
from openvla.nn.vit import LayerScale, VisionTransformer


def accelerated_vision(backbone: VisionBackbone) -> Callable[[Tensor], Tensor]:
    """The backbone for its device: itself where no kernels apply."""
    weight = next(backbone.parameters())
    if weight.dtype != torch.bfloat16 or fused_kernels(weight) is None:
        return backbone
    return GpuVision(backbone) if weight.is_cuda else FusedVision(backbone)


class FusedVision:
    """Called as `VisionBackbone`, whose encoders are packed and in bfloat16."""

    def __init__(self, backbone: VisionBackbone) -> None:
        self._backbone = backbone
        self._kernels: Any = fused_kernels(next(backbone.parameters()))
        self._encoders: list[Any] = list(backbone.children())

    def __call__(self, pixels: Float[Tensor, "B K S S"]) -> Float[Tensor, "B P C"]:
        """Features of all encoders, channels side by side."""
        pictures = self._backbone.pictures(pixels)
        return self._backbone.joined([self.encode(*each) for each in zip(self._encoders, pictures, strict=True)])

    def encode(self, encoder: VisionTransformer, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P c"]:
        """`VisionTransformer.forward`, where a residual waits for the norm that follows it."""
        x, more, factor = encoder.embed(pixels), None, None
        blocks: list[Any] = list(encoder.blocks)[:-1]
        for block in blocks:
            x, normed = self._kernels.layer_norm(x, block.norm1, more, factor)
            x, normed = self._kernels.layer_norm(x, block.norm2, block.attn(normed), factor_of(block.ls1))
            more, factor = block.mlp(normed), factor_of(block.ls2)
        if more is not None:
            x = x + (more if factor is None else more * factor)
        return x[:, encoder.config.prefix_tokens :]


def factor_of(scale: nn.Module) -> Tensor | None:
    """The factors of a residual branch; None where it has none."""
    return scale.scale_factor if isinstance(scale, LayerScale) else None


class GpuVision(FusedVision):
    """With a stream for each encoder."""

    def __init__(self, backbone: VisionBackbone) -> None:
        super().__init__(backbone)
        device = next(backbone.parameters()).device
        self._streams = [torch.cuda.Stream(device) for _ in self._encoders]

    def __call__(self, pixels: Float[Tensor, "B K S S"]) -> Float[Tensor, "B P C"]:
        here = torch.cuda.current_stream(pixels.device)
        features: list[Tensor] = []
        pictures = self._backbone.pictures(pixels)
        for encoder, picture, stream in zip(self._encoders, pictures, self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                features.append(self.encode(encoder, picture))
        for stream in self._streams:
            here.wait_stream(stream)
        return self._backbone.joined(features)
