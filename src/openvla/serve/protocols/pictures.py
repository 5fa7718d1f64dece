"""Images as they arrive: pixels, or the bytes of a JPEG or PNG file, alone or in base64.

The size is read from the file's header and judged before a pixel is decoded, so that a small file cannot unfold into a
large image.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.errors import InputError
from openvla.serve.guard.refusals import too_large

FORMATS = ("JPEG", "PNG")


def to_pixels(value: object, what: str, most_pixels: int) -> NDArray[Any]:
    """The array that `value` is or encodes; whether it is a fit image is for `Observation` to judge.

    value: an array; a flat uint8 array or bytes of a JPEG or PNG file; the same in base64, with or without a data URL.
    Raises InputError for what cannot be decoded, Refusal (413) beyond `most_pixels`.
    """
    if isinstance(value, str):
        value = _from_base64(value, what)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == np.uint8:
        value = value.tobytes()
    if isinstance(value, bytes):
        return decode(value, what, most_pixels)
    if not isinstance(value, np.ndarray):
        raise InputError(f"{what} is a {type(value).__name__}; send an array, or the bytes of a JPEG or PNG file")
    if value.ndim >= 2 and value.shape[0] * value.shape[1] > most_pixels:
        raise too_large(what, value.shape[0] * value.shape[1], most_pixels, "pixels")
    return value


def decode(data: bytes, what: str, most_pixels: int) -> NDArray[Any]:
    """The pixels of a JPEG or PNG file, uint8 (H, W, channels); gray and alpha are kept, a palette is looked up."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise too_large(what, image.width * image.height, most_pixels, "pixels")
            if image.mode == "P":
                return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
            if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):  # as many channels as RGB, with another meaning
                raise InputError(f"{what} is a {image.mode} image; convert it to RGB first")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} cannot be decoded; send an RGB JPEG or PNG file, or an array of pixels") from error


def to_jpeg(image: NDArray[np.uint8], quality: int = 80) -> bytes:
    """A JPEG file of uint8 (H, W, 3) pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _from_base64(text: str, what: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{what} is text, but not a JPEG or PNG file in base64; send one, or an array") from error
