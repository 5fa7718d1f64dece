"""Stored pixels to model input, where the model is: batches travel as uint8, and are normalised on the device.

The numbers are those of `codec.images.ImageTransform.normalize`, bit for bit: float32, one rounding per operation, in
the same order. The divisor is a tensor, because a GPU turns the division by a plain number into a product.

Shapes: B examples; V views of each, 1 or E; E vision encoders; S model input.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from openvla.codec.images import ImageTransform


def normalized(pixels: UInt8[Tensor, "B V S S 3"], images: ImageTransform) -> Float[Tensor, "B C S S"]:
    """float32 (B, 3 E, S, S), on the device of `pixels`."""
    constants = (images.means, images.stds, [255.0])
    mean, std, white = (torch.tensor(part).to(pixels.device, non_blocking=True) for part in constants)
    scaled = pixels.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    scaled = scaled / white
    return ((scaled - mean.view(-1, 3, 1, 1)) / std.view(-1, 3, 1, 1)).flatten(1, 2)
