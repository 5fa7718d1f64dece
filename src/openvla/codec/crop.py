"""Windows of an image, enlarged to its full size: the random ones of training and the central one of evaluation.

Training with crop augmentation shows the model windows of a fixed area; at inference the central window of that area,
scaled back to full size, has the same field of view. Sampling is bilinear between pixel centres with aligned corners,
along the rows and then down the columns, and every step is float32, because TensorFlow's are: the central crop equals
the published one byte for byte.

Work is on planes, one per colour, in [0, 1]: numpy is several times faster on them than on interleaved pixels.

Shapes: H, W image; planes (3, H, W).
Source: the published training and evaluation, after TensorFlow's `crop_and_resize`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]


def center_crop(image: NDArray[np.uint8], area: float) -> NDArray[np.uint8]:
    """The central window with the fraction `area` (0, 1] of uint8 (H, W, 3), enlarged to (H, W, 3)."""
    side = np.sqrt(np.float32(area))
    first = (1 - side) / np.float32(2)
    return to_uint8(crop_window(to_planes(image), first, first, side))


def to_planes(image: NDArray[np.uint8]) -> Planes:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planes *= np.float32(1 / 255)
    return planes


def to_uint8(planes: Planes) -> NDArray[np.uint8]:
    """float32 (3, H, W) -> uint8 (H, W, 3); values beyond [0, 1] are clipped."""
    scaled = np.clip(planes, 0, 1)
    scaled *= np.float32(255.5)  # 255.5 and truncation are how TensorFlow rounds back to uint8
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for colour in range(3):
        image[..., colour] = scaled[colour]
    return image


def crop_window(planes: Planes, top: np.float32, left: np.float32, side: np.float32) -> Planes:
    """The window whose sides are the fraction `side` (0, 1] of the image's, enlarged to (3, H, W).

    top, left: where it starts, as fractions of the image's height and width, 0 to 1 - side.
    """
    across = np.ascontiguousarray(planes.transpose(0, 2, 1))  # whole rows are copied much faster than single pixels
    across = _stretch(across, left, side)
    return _stretch(np.ascontiguousarray(across.transpose(0, 2, 1)), top, side)


def _stretch(planes: Planes, first: np.float32, side: np.float32) -> Planes:
    """Enlarge the part of the rows that starts at the fraction `first` to all of them."""
    last = planes.shape[1] - 1
    step = (first + side - first) * np.float32(last) / np.float32(max(last, 1))
    where = first * np.float32(last) + np.arange(last + 1, dtype=np.float32) * step
    below = np.clip(np.floor(where).astype(np.intp), 0, last)
    above = np.minimum(below + 1, last)
    weight = (where - below).astype(np.float32)[:, None]
    low = np.take(planes, below, 1)
    stretched = np.take(planes, above, 1)
    stretched -= low
    stretched *= weight
    stretched += low
    return stretched
