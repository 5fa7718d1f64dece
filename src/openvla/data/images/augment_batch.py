"""The augmentation of `augment` for a batch at once, in torch: for a GPU, which has the arithmetic to spare.

The same steps, formulas and draws, so that an image comes out the same (to 1e-5 in [0, 1]) whether a worker changed it
alone or the GPU did in a batch. On a CPU, one image at a time in numpy is faster.

Shapes: B images, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openvla.data.images.augment import DRAWS, AugmentConfig
from openvla.errors import InputError


def augment_batch(images: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Changed copies of images (B, 3, H, W), uint8 or float32 in [0, 1], of the same dtype and on the same device.

    draws: (B, 6), uniform in [0, 1): for each image what `numpy.random.Generator.random(DRAWS)` gives.
    Raises InputError for other shapes and types.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (torch.uint8, torch.float32):
        raise InputError(
            f"the images to augment are {images.dtype} of shape {tuple(images.shape)}; give (batch, 3, height, width), "
            "uint8 or float32"
        )
    if draws.shape != (len(images), DRAWS):
        raise InputError(f"the draws have shape {tuple(draws.shape)}; give ({len(images)}, {DRAWS}), one row an image")
    down, across, brightness, contrast, saturation, hue = draws.to(images.device, torch.float32).unbind(1)
    pixels = images * (1 / 255) if images.dtype == torch.uint8 else images
    side = torch.tensor(config.crop_area, dtype=torch.float32).sqrt().item()
    if side < 1:
        pixels = _stretch(pixels, down * (1 - side), side, axis=2)
        pixels = _stretch(pixels, (down if config.diagonal_crop else across) * (1 - side), side, axis=3).clamp(0, 1)
    pixels = (pixels + _between(-config.brightness, config.brightness, brightness)).clamp(0, 1)
    means = pixels.mean(dim=(2, 3), keepdim=True)
    pixels = ((pixels - means) * _between(*config.contrast, contrast) + means).clamp(0, 1)
    shift = 6 * _between(-config.hue, config.hue, hue)
    pixels = _saturation_and_hue(pixels, _between(*config.saturation, saturation), shift)
    return (pixels * 255.5).clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else pixels


def _between(low: float, high: float, share: Tensor) -> Tensor:
    """(B, 1, 1, 1)."""
    return (low + (high - low) * share)[:, None, None, None]


def _stretch(pixels: Tensor, first: Tensor, side: float, axis: int) -> Tensor:
    """Enlarge the part of `axis` that starts at the fraction `first` (B,) to the whole axis."""
    last = pixels.shape[axis] - 1
    where = (first[:, None] + torch.linspace(0, side, last + 1, device=pixels.device)) * last
    below = where.floor().clamp(0, last)
    shape = [len(pixels), 1, 1, 1]
    shape[axis] = last + 1
    low = pixels.take_along_dim(below.long().view(shape), axis)
    high = pixels.take_along_dim((below.long() + 1).clamp(max=last).view(shape), axis)
    return low + (high - low) * (where - below).view(shape)


def _saturation_and_hue(pixels: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=1)
    largest, smallest = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    spread = largest - smallest
    hue = 1 + ((green - smallest) + (blue - red)) / spread.clamp(min=torch.finfo(torch.float32).tiny)
    hue = torch.copysign(hue, green - blue) + shift
    hue = hue - 6 * torch.round(hue / 6)
    colour = torch.minimum(spread * factor, largest)
    shares = torch.cat([2 - hue.abs(), (hue + 1).abs() - 1, (hue - 1).abs() - 1], dim=1)
    return largest - colour + colour * shares.clamp(0, 1)
