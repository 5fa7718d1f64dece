"""Encoded images to pixels and back, with the numbers of the published pipeline.

JPEG is decoded with the fast integer DCT and fancy upsampling, as TensorFlow does; Pillow's accurate DCT differs by 1
to 2 levels in most pixels. JPEG is encoded at quality 95 with 4:2:0 chroma, byte for byte like TensorFlow's encoder.
PNG is lossless. Pixels are uint8 (H, W, 3) RGB; grayscale is repeated, an opaque alpha channel is dropped.

Source: TensorFlow's `tf.io.decode_image` and `tf.io.encode_jpeg`, with their default arguments.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.errors import DataError, require
from openvla.spec import check_image

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode_image(data: bytes, source: str) -> NDArray[np.uint8]:
    """JPEG or PNG bytes -> uint8 (H, W, 3), RGB.

    Raises DataError naming `source` for damaged bytes, other formats, 16-bit depth maps and transparent pixels.
    """
    if data.startswith(JPEG_MAGIC):
        return _decode_jpeg(data, source)
    if data.startswith(PNG_MAGIC):
        return _decode_png(data, source)
    held = f"bytes that start with {data[:8].hex(' ')}" if data else "an empty string (a padding image)"
    raise DataError(f"{source} holds {held}, neither JPEG nor PNG; there are no pixels to show")


def encode_image(image: NDArray[np.uint8], form: str, source: str) -> bytes:
    """Encode uint8 (H, W, 3) RGB as `form`, "jpeg" (quality 95) or "png". Raises InputError for other arrays."""
    check_image(image, source)
    buffer = io.BytesIO()
    if form == "jpeg":
        Image.fromarray(image).save(buffer, format="JPEG", quality=95, dpi=(300, 300))
    else:
        Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _decode_jpeg(data: bytes, source: str) -> NDArray[np.uint8]:
    decode = require("simplejpeg", "data").decode_jpeg
    try:
        return decode(data, colorspace="RGB", fastdct=True, fastupsample=False)
    except ValueError as error:
        raise DataError(f"{source} is a damaged JPEG: {error}; fetch the file again or drop this episode") from error


def _decode_png(data: bytes, source: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise DataError(f"{source} is a damaged PNG: {error}; fetch the file again or drop this episode") from error
    if image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise DataError(f"{source} is a PNG with transparent pixels; store RGB, or an opaque alpha channel")
    elif image.mode.startswith(("I", "F")):
        raise DataError(
            f"{source} is a PNG of mode {image.mode}, a depth map rather than a camera image; use another key"
        )
    return np.asarray(image.convert("RGB"))
