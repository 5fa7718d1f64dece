"""The encoders on a GPU: side by side, each on a stream of its own, residuals drawn into the norms.

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
from openvla.nn.quantized import gpu_kernels
from openvla.nn.vit import LayerScale, VisionTransformer


def accelerated_vision(backbone: VisionBackbone) -> Callable[[Tensor], Tensor]:
    """The backbone for its device: itself where the kernels do not apply."""
    weight = next(backbone.parameters())
    return GpuVision(backbone) if weight.is_cuda and weight.dtype == torch.bfloat16 else backbone


class GpuVision:
    """Called as `VisionBackbone`, whose encoders are packed and in bfloat16."""

    def __init__(self, backbone: VisionBackbone) -> None:
        self._backbone, self._kernels = backbone, gpu_kernels()
        device = next(backbone.parameters()).device
        self._streams = [torch.cuda.Stream(device) for _ in backbone.children()]

    def __call__(self, pixels: Float[Tensor, "B K S S"]) -> Float[Tensor, "B P C"]:
        """Features of all encoders, channels side by side."""
        here = torch.cuda.current_stream(pixels.device)
        features: list[Tensor] = []
        encoders: list[Any] = list(self._backbone.children())
        pictures = self._backbone.pictures(pixels)
        for encoder, picture, stream in zip(encoders, pictures, self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                features.append(self._encode(encoder, picture))
        for stream in self._streams:
            here.wait_stream(stream)
        return self._backbone.joined(features)

    def _encode(self, encoder: VisionTransformer, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P c"]:
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
