"""Camera images to model input: bring to size with PIL, scale to [0, 1], normalise once per vision encoder.

The resize is PIL's bicubic, rounded to uint8, as the published processor does it; three strategies:
  resize-naive  to (S, S), ignoring the aspect ratio
  resize-crop   short side to S, then the central (S, S)
  letterbox     pad to a square, then as resize-crop

Published code has three quirks that change pixels, each an option of `ImageTransform`, set from the checkpoint's files:
  one padding colour   the Hugging Face processor pads for all encoders in the colour of the last; native runs pad for
                       each encoder in its own mean (`fill_per_encoder`)
  a larger short side  native runs with CLIP-B/16 resize the short side to 248 before the crop to 224 (`short_side`)
  a pixel short        where the padding is odd, the "square" is one pixel short; `full_square` adds the pixel

Shapes: H, W image; S model input; E encoders. Output channels are encoder 0's R, G, B, then encoder 1's.
Source: Prismatic VLMs (arXiv:2402.07865), section 4.2; the published Hugging Face processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.errors import InputError, lookup
from openvla.spec import check_image

RGB = tuple[float, float, float]
Colour = tuple[int, int, int]

# (mean, std) of RGB in [0, 1] that each family of encoders was trained with.
NORMALIZATION: dict[str, tuple[RGB, RGB]] = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "in1k": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


LARGEST = 100_000_000
"""Pixels that an image may have on the way; only a very long one needs more, where its aspect ratio is kept."""


@dataclass(frozen=True)
class ImageTransform:
    """uint8 (H, W, 3) -> float32 (3 E, S, S).

    strategy: a key of `STRATEGIES`.
    sizes: S for each encoder, all equal, because the encoders' channels share one array.
    means, stds: RGB triples in [0, 1] for each encoder.
    fill: letterbox colour, three integers in 0..255; None takes the last encoder's mean.
    fill_per_encoder: pad for each encoder in the colour of its own mean.
    short_side: what resize-crop and letterbox bring the short side to before they crop, at least S; None is S.
    full_square: pad an odd difference on the right or below by one more pixel.

    Raises InputError for lists of different length, sizes that differ or are not positive, stds that are not positive,
    colours and short sides out of range; UsageError for an unknown strategy.
    """

    strategy: str
    sizes: tuple[int, ...]
    means: tuple[RGB, ...]
    stds: tuple[RGB, ...]
    fill: Colour | None = None
    fill_per_encoder: bool = False
    short_side: int | None = None
    full_square: bool = False

    def __post_init__(self) -> None:
        lookup(self.strategy, STRATEGIES, "resize strategy")
        if not len(self.sizes) == len(self.means) == len(self.stds) > 0:
            raise InputError(
                f"an image transform needs one size, mean and std per encoder; got {len(self.sizes)} sizes, "
                f"{len(self.means)} means and {len(self.stds)} stds"
            )
        if len(set(self.sizes)) != 1 or self.sizes[0] < 1:
            raise InputError(f"the image sizes {self.sizes} must be one positive size, the same for every encoder")
        if any(value <= 0 for std in self.stds for value in std):
            raise InputError(f"the image stds {self.stds} must be positive; they divide the pixels")
        if self.fill is not None and (self.fill_per_encoder or not all(0 <= value <= 255 for value in self.fill)):
            raise InputError(
                f"the letterbox fill is {self.fill} with fill_per_encoder={self.fill_per_encoder}; give one colour of "
                "three integers in 0..255, or let each encoder have its own"
            )
        if self.short_side is not None and not self.size <= self.short_side <= 4 * self.size:
            raise InputError(f"short_side is {self.short_side}; it must be from {self.size}, the size, to 4 times that")

    @property
    def size(self) -> int:
        """Height and width of the output in pixels."""
        return self.sizes[0]

    @cached_property
    def fills(self) -> tuple[Colour, ...]:
        """The padding colours in force: one for all encoders, or one for each."""
        if self.strategy != "letterbox" or not self.fill_per_encoder:
            return (self.fill or _colour(self.means[-1]),)
        colours = tuple(map(_colour, self.means))
        return colours if len(set(colours)) > 1 else colours[:1]

    @cached_property
    def _mean_and_std(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """float32 (E, 3, 1, 1) each."""
        shape = (-1, 3, 1, 1)
        return np.asarray(self.means, np.float32).reshape(shape), np.asarray(self.stds, np.float32).reshape(shape)

    def views(self, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The image as uint8 (S, S, 3), by the strategy: once, or for each encoder where their padding differs.

        An image of that size is returned as it is. Raises InputError for anything but a uint8 RGB image, and for one
        too long to keep its aspect ratio.
        """
        check_image(image, "image")
        keeps_ratio = self.strategy != "resize-naive"
        height, width = image.shape[:2]
        if height == width == self.size and not (keeps_ratio and self.short_side):
            return [image]
        needed = self._largest_step(max(height, width), min(height, width))
        if needed > LARGEST:
            raise InputError(
                f"the image is {width} x {height} pixels, so long that {self.strategy!r} would need {needed // 10**6} "
                f"million pixels on the way, more than {LARGEST // 10**6} million; crop it first"
            )
        resize, picture = STRATEGIES[self.strategy], Image.fromarray(image)
        return [np.asarray(resize(picture, self, fill)) for fill in self.fills]

    def _largest_step(self, long: int, short: int) -> int:
        """Pixels of the largest image that the strategy makes of one with these sides."""
        target = self.short_side or self.size
        return {"resize-crop": target * target * long // short, "letterbox": long * long}.get(self.strategy, 0)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The first of `views`: uint8 (H, W, 3) -> uint8 (S, S, 3)."""
        return self.views(image)[0]

    def normalize(self, views: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (3 E, S, S) of what `views` returned."""
        # One rounding per division and subtraction, in this order, gives the published numbers bit for bit.
        scaled = np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2)).astype(np.float32)
        scaled /= np.float32(255)
        mean, std = self._mean_and_std
        pixels = scaled - mean
        pixels /= std
        return pixels.reshape(-1, self.size, self.size)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (3 E, S, S) of uint8 (H, W, 3). Raises InputError for what `views` refuses."""
        return self.normalize(self.views(image))


def _colour(mean: RGB) -> Colour:
    red, green, blue = (int(value * 255) for value in mean)
    return red, green, blue


def _resize_naive(image: Image.Image, transform: ImageTransform, fill: Colour) -> Image.Image:
    del fill
    return image.resize((transform.size, transform.size), Image.Resampling.BICUBIC)


def _resize_crop(image: Image.Image, transform: ImageTransform, fill: Colour) -> Image.Image:
    del fill
    short, target, size = min(image.size), transform.short_side or transform.size, transform.size
    width, height = (target if side == short else int(target * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _letterbox(image: Image.Image, transform: ImageTransform, fill: Colour) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    across, down = (side - width) // 2, (side - height) // 2
    size = (side, side) if transform.full_square else (width + 2 * across, height + 2 * down)
    canvas = Image.new("RGB", size, fill)
    canvas.paste(image, (across, down))
    return _resize_crop(canvas, transform, fill)


STRATEGIES: dict[str, Callable[[Image.Image, ImageTransform, Colour], Image.Image]] = {
    "resize-naive": _resize_naive,
    "resize-crop": _resize_crop,
    "letterbox": _letterbox,
}
