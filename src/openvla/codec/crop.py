"""The central crop that an evaluation takes of a policy trained on random crops.

Training with crop augmentation shows the model windows of a fixed area; at inference the central window of that area,
scaled back to full size, has the same field of view. Sampling is bilinear between pixel centres with aligned corners,
and every step is float32, because TensorFlow's are: the result equals the published one byte for byte.

Source: the published evaluation, after TensorFlow's `crop_and_resize`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def center_crop(image: NDArray[np.uint8], area: float) -> NDArray[np.uint8]:
    """The central window with the fraction `area` (0, 1] of uint8 (H, W, 3), enlarged to (H, W, 3)."""
    side = np.sqrt(np.float32(area))
    pixels = image.astype(np.float32) * np.float32(1 / 255)
    pixels = _stretch(pixels, side, axis=1)
    pixels = _stretch(pixels, side, axis=0)
    # 255.5 and truncation are how the published code rounds back to uint8.
    return (np.clip(pixels, 0, 1) * np.float32(255.5)).astype(np.uint8)


def _stretch(pixels: NDArray[np.float32], side: np.float32, axis: int) -> NDArray[np.float32]:
    """Enlarge the central fraction `side` of one axis to the whole axis."""
    last = pixels.shape[axis] - 1
    first = (1 - side) / np.float32(2)
    step = (first + side - first) * np.float32(last) / np.float32(max(last, 1))
    where = first * np.float32(last) + np.arange(last + 1, dtype=np.float32) * step
    below = np.floor(where).astype(np.intp)
    above = np.minimum(below + 1, last)
    weight = (where - below).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    low, high = np.take(pixels, below, axis), np.take(pixels, above, axis)
    return np.asarray(low + (high - low) * weight, np.float32)
