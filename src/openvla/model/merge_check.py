"""Whether a merged checkpoint computes what its base computes with the adapter beside it.

One fixed input goes through both. Merging rounds each weight once to the stored type, so logits differ by what that
type rounds; more than a few roundings is a defect, or an adapter that does not belong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla.errors import CheckpointError
from openvla.model.adapters import Adapter
from openvla.model.prismatic import ModelConfig, OpenVLA

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest root-mean-square difference of the logits, relative to their spread, by stored type."""


def fixed_input(config: ModelConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Token ids (1, 8) and pixel values (1, K, S, S) that depend on the sizes alone."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.decoder.vocab_size - 64, (1, 8), generator=generator)
    ids[0, 0] = 1
    size = config.encoders[0].image_size
    pixels = torch.randn(1, 3 * len(config.encoders) * config.images, size, size, generator=generator)
    return ids, pixels.to(dtype)


@torch.inference_mode()
def check_merge(base: OpenVLA, adapter: Adapter, merged: OpenVLA) -> float:
    """The relative difference of the logits; CheckpointError where it is beyond the rounding of the stored type."""
    dtype = next(merged.parameters()).dtype
    ids, pixels = fixed_input(merged.config, dtype)
    hooks = [
        module.register_forward_hook(_beside(*adapter.updates[f"{name}.weight"]))
        for name, module in base.named_modules()
        if f"{name}.weight" in adapter.updates
    ]
    wanted = base(ids, pixels).logits
    for hook in hooks:
        hook.remove()
    difference = float((merged(ids, pixels).logits - wanted).square().mean().sqrt() / wanted.std())
    if not difference <= TOLERANCE[dtype]:
        raise CheckpointError(
            f"the merged weights do not compute what base and adapter do: their logits differ by {difference:.2g} of "
            f"their spread, more than rounding to {dtype} explains ({TOLERANCE[dtype]}); nothing was written"
        )
    return difference


def _beside(first: Tensor, second: Tensor, scale: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that adds the adapter's branch to a layer's output."""

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x = inputs[0].float()
        if isinstance(layer, nn.Conv2d):
            branch = F.conv2d(F.conv2d(x, first.float(), stride=layer.stride), second.float())
        else:
            branch = F.linear(F.linear(x, first.float()), second.float())
        return (output.float() + scale * branch).to(output.dtype)

    return hook
