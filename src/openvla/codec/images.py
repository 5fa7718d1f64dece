"""Camera images to model input: bring to size with PIL, scale to [0, 1], normalise once per vision encoder.

The resize is PIL's bicubic, rounded to uint8, as the published processor does it; three strategies:
  resize-naive  to (S, S), ignoring the aspect ratio
  resize-crop   short side to S, then the central (S, S)
  letterbox     pad to a square (one pixel short of it where the padding is odd), then as resize-crop
With several encoders the published processor keeps only the last encoder's padding colour and uses it for all.

Shapes: H, W image; S model input; E encoders. Output channels are encoder 0's R, G, B, then encoder 1's.
Source: Prismatic VLMs (arXiv:2402.07865), section 4.2; the published Hugging Face processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.errors import InputError, lookup
from openvla.spec import check_image

RGB = tuple[float, float, float]

# (mean, std) of RGB in [0, 1] that each family of encoders was trained with.
NORMALIZATION: dict[str, tuple[RGB, RGB]] = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "in1k": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class ImageTransform:
    """uint8 (H, W, 3) -> float32 (3 E, S, S).

    strategy: a key of `STRATEGIES`.
    sizes: S for each encoder, all equal, because the encoders' channels share one array.
    means, stds: RGB triples in [0, 1] for each encoder.
    fill: letterbox colour, three integers in 0..255; None takes the last encoder's mean.

    Raises InputError for lists of different length, sizes that differ or are not positive, and stds that are not
    positive; UsageError for an unknown strategy.
    """

    strategy: str
    sizes: tuple[int, ...]
    means: tuple[RGB, ...]
    stds: tuple[RGB, ...]
    fill: tuple[int, int, int] | None = None

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

    @property
    def size(self) -> int:
        """Height and width of the output in pixels."""
        return self.sizes[0]

    @cached_property
    def _mean_and_std(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """float32 (E, 3, 1, 1) each."""
        shape = (-1, 3, 1, 1)
        return np.asarray(self.means, np.float32).reshape(shape), np.asarray(self.stds, np.float32).reshape(shape)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) -> uint8 (S, S, 3), by the strategy; an image of that size is returned as it is."""
        check_image(image, "image")
        if image.shape[:2] == (self.size, self.size):
            return image
        fill = self.fill or tuple(int(value * 255) for value in self.means[-1])
        return np.asarray(STRATEGIES[self.strategy](Image.fromarray(image), self.size, fill))

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 (3 E, S, S) of uint8 (H, W, 3). Raises InputError for anything but a uint8 RGB image."""
        # One rounding per division and subtraction, in this order, gives the published numbers bit for bit.
        scaled = np.ascontiguousarray(self.resize(image).transpose(2, 0, 1)).astype(np.float32)
        scaled /= np.float32(255)
        mean, std = self._mean_and_std
        pixels = scaled - mean
        pixels /= std
        return pixels.reshape(-1, self.size, self.size)


def _resize_naive(image: Image.Image, size: int, fill: tuple[int, ...]) -> Image.Image:
    del fill
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _resize_crop(image: Image.Image, size: int, fill: tuple[int, ...]) -> Image.Image:
    del fill
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _letterbox(image: Image.Image, size: int, fill: tuple[int, ...]) -> Image.Image:
    width, height = image.size
    across, down = (max(width, height) - width) // 2, (max(width, height) - height) // 2
    canvas = Image.new("RGB", (width + 2 * across, height + 2 * down), fill)
    canvas.paste(image, (across, down))
    return _resize_crop(canvas, size, fill)


STRATEGIES: dict[str, Callable[[Image.Image, int, tuple[int, ...]], Image.Image]] = {
    "resize-naive": _resize_naive,
    "resize-crop": _resize_crop,
    "letterbox": _letterbox,
}
