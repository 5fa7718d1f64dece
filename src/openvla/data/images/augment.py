"""Random crops and colours for training images, with the numbers of the published augmentation.

In order, on pixels in [0, 1], clipped to it after each: a window of fixed area, enlarged to full size; brightness,
added; contrast, around each colour's mean; saturation and hue, in HSV. All of an image's chance is six numbers drawn at
once from the caller's generator, so an image depends on its own seed and not on order, worker or batch.

As published, one number places the crop both down and across, so that windows lie on the diagonal from the upper left
to the lower right; `diagonal_crop=False` places them anywhere.

Saturation and hue are one step here. With M, m the largest and smallest colour of a pixel, saturation changes M - m to
c = min(f (M - m), M) and leaves M and the hue h, which in sixths of a turn is 1 + (G + B - R - m) / (M - m) with the
sign of G - B. With h turned and back in [-3, 3], the colours are M - c + c s, where s is 2 - |h| for red, |h + 1| - 1
for green and |h - 1| - 1 for blue, clipped to [0, 1]. No pixel needs a case distinction.

Shapes: H, W image; planes (3, H, W) in [0, 1], as in `codec.crop`.
Source: the published training (dlimp's `augment_image`), after TensorFlow's `tf.image`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from openvla.codec.crop import Planes, crop_window, to_planes, to_uint8
from openvla.errors import InputError

Kind = TypeVar("Kind", np.uint8, np.float32)

DRAWS = 6
"""Uniform numbers per image: crop down, crop across, brightness, contrast, saturation, hue."""


@dataclass(frozen=True)
class AugmentConfig:
    """How far each image may be changed; the defaults are the published ones.

    crop_area: share (0, 1] of the image's area that the window keeps; 1 does not crop.
    diagonal_crop: windows only on the main diagonal, as published; False places them anywhere.
    brightness: largest number that is added or subtracted, 0 to 1.
    contrast, saturation: range of the factor.
    hue: largest shift in turns, 0 to 0.5.

    Raises InputError for values outside these ranges.
    """

    crop_area: float = 0.9
    diagonal_crop: bool = True
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise InputError(f"crop_area is {self.crop_area}; give a share of the image above 0 and up to 1")
        for name, largest in (("brightness", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= largest:
                raise InputError(f"{name} is {getattr(self, name)}; give a number in 0..{largest:g}")
        for name in ("contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < float("inf"):
                raise InputError(f"{name} is ({low}, {high}); give the smallest and the largest factor, from 0")


@dataclass(frozen=True)
class Change:
    """What is done to one image, as float32: `draws` spread over the ranges of a config.

    top, left, side: the window, as fractions of the image. added: to every pixel. contrast, saturation: factors.
    hue: shift in sixths of a turn.
    """

    top: np.float32
    left: np.float32
    side: np.float32
    added: np.float32
    contrast: np.float32
    saturation: np.float32
    hue: np.float32

    @classmethod
    def of(cls, draws: NDArray[np.floating], config: AugmentConfig) -> Change:
        """The change that `draws` (6,), uniform in [0, 1), stand for."""
        down, across, brightness, contrast, saturation, hue = draws.astype(np.float32)
        side = np.sqrt(np.float32(config.crop_area))
        free = np.float32(1) - side
        return cls(
            top=down * free,
            left=(down if config.diagonal_crop else across) * free,
            side=side,
            added=_between(-config.brightness, config.brightness, brightness),
            contrast=_between(*config.contrast, contrast),
            saturation=_between(*config.saturation, saturation),
            hue=np.float32(6) * _between(-config.hue, config.hue, hue),
        )


def augment(image: NDArray[Kind], random: np.random.Generator, config: AugmentConfig) -> NDArray[Kind]:
    """A changed copy of an image (H, W, 3), uint8 or float32 in [0, 1], of the same dtype.

    random: `DRAWS` numbers are drawn from it, whatever the config. Raises InputError for other arrays.
    """
    return apply(image, random.random(DRAWS), config)


def apply(image: NDArray[Kind], draws: NDArray[np.floating], config: AugmentConfig) -> NDArray[Kind]:
    """`augment` with given draws (6,), uniform in [0, 1)."""
    pixels: NDArray[Any] = image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.name not in ("uint8", "float32"):
        raise InputError(
            f"the image to augment is {image.dtype} of shape {image.shape}; give (height, width, 3), uint8 or float32"
        )
    change = Change.of(draws, config)
    if pixels.dtype == np.float32:
        planes = np.array(pixels.transpose(2, 0, 1), order="C")
        return cast("NDArray[Kind]", np.ascontiguousarray(augment_planes(planes, change).transpose(1, 2, 0)))
    return cast("NDArray[Kind]", to_uint8(augment_planes(to_planes(pixels), change)))


def augment_planes(planes: Planes, change: Change) -> Planes:
    """The five steps on float32 (3, H, W) in [0, 1], which is overwritten."""
    if change.side < 1:
        planes = _clip(crop_window(planes, change.top, change.left, change.side))
    planes += change.added
    _contrast(_clip(planes), change.contrast)
    _saturation_and_hue(planes, change)
    return planes


def _between(low: float, high: float, share: np.float32) -> np.float32:
    return np.float32(low) + np.float32(high - low) * share


def _clip(planes: Planes) -> Planes:
    return np.clip(planes, np.float32(0), np.float32(1), out=planes)


def _contrast(planes: Planes, factor: np.float32) -> None:
    means = planes.mean(axis=(1, 2), keepdims=True)
    planes -= means
    planes *= factor
    planes += means
    _clip(planes)


def _saturation_and_hue(planes: Planes, change: Change) -> None:
    red, green, blue = planes
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    spread = largest - smallest
    hue = _hue(planes, smallest, spread)
    hue += change.hue
    hue -= np.float32(6) * np.rint(hue * np.float32(1 / 6))
    np.subtract(np.float32(2), np.abs(hue), out=red)
    for plane, turn in ((green, np.float32(1)), (blue, np.float32(-1))):
        np.add(hue, turn, out=plane)
        np.abs(plane, out=plane)
        plane -= np.float32(1)
    colour = np.minimum(spread * change.saturation, largest)
    _clip(planes)
    planes *= colour
    planes += largest - colour


def _hue(planes: Planes, smallest: Planes, spread: Planes) -> Planes:
    """Sixths of a turn in [-3, 3]; whatever is finite where there is no colour."""
    red, green, blue = planes
    hue = green - smallest
    hue += blue - red
    hue /= np.maximum(spread, np.finfo(np.float32).tiny)
    hue += np.float32(1)
    return np.copysign(hue, green - blue, out=hue)
