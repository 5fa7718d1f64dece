"""From a camera image to the size that a model takes: the three ways of the published code, by name.

    training    what stored frames go through: Lanczos with antialiasing, squashed to (S, S)
    evaluation  what published evaluations put a simulator's frame through to make it look like a stored one: JPEG and
                back, then as training
    processor   PIL's bicubic by the checkpoint's resize strategy, as the published Hugging Face processor does it

codec.json names the pipeline that a checkpoint was trained with, and inference takes it; published directories, which
say nothing, take `processor`. A window, where the checkpoint was trained on random ones, is the central one of the
same area and comes after the resize: `evaluation_image` is the whole published evaluation. What comes out then goes
through the checkpoint's `ImageTransform`, which leaves an image of its size alone.

Shapes: H, W camera image; S model input.
Source: OpenVLA (arXiv:2406.09246), its training and its LIBERO and Bridge evaluations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from openvla.codec.crop import center_crop
from openvla.codec.jpeg import decode_jpeg, encode_jpeg
from openvla.codec.resample import lanczos3

PUBLISHED_CROP = 0.9
"""Area of the windows that published models were trained on."""


def training_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (size, size, 3) of a frame that was a JPEG before."""
    return lanczos3(image, size, size)


def jpeg_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`training_image` of a frame that was not, which becomes one first."""
    return lanczos3(decode_jpeg(encode_jpeg(image)), size, size)


def evaluation_image(image: NDArray[np.uint8], size: int, area: float = PUBLISHED_CROP) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (size, size, 3): JPEG and back, resize, central window of `area`."""
    return center_crop(jpeg_image(image, size), area)


def _unchanged(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    del size
    return image


PIPELINES: dict[str, Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]] = {
    "training": training_image,
    "evaluation": jpeg_image,
    "processor": _unchanged,
}
"""What comes before the checkpoint's own transform; `processor` leaves all to it."""
