"""Encoded images to pixels and back, with the numbers of the published pipeline.

JPEG goes through `codec.jpeg`; PNG is lossless. Pixels are uint8 (H, W, 3) RGB; grayscale is repeated, an opaque alpha
channel is dropped. `Pixels` is what a training image goes through, from stored bytes to the size that the model takes.

Source: TensorFlow's `tf.io.decode_image`, with its default arguments.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.codec.images import ImageTransform
from openvla.codec.jpeg import JPEG_MAGIC, decode_jpeg, encode_jpeg
from openvla.codec.resample import lanczos3
from openvla.data.images.augment import AugmentConfig, augment
from openvla.errors import DataError, InputError, lookup
from openvla.spec import check_image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

MODES = {
    "exact": "published training: fast-DCT decode, Lanczos3; at most 1 level from TensorFlow's pixels",
    "fast": "JPEG decoded at the smallest scale n/8 that is large enough, then Lanczos3; some 2 levels off on average",
    "processor": "fast-DCT decode, then Pillow's bicubic by the checkpoint's own resize strategy",
}
"""How stored bytes become an image of the model's size."""


class Pixels:
    """Stored bytes -> the uint8 (S, S, 3) that a model is trained on, one image at a time.

    mode: a key of `MODES`. size: S. augment: what may be changed, or None for images as they are.
    images: for mode "processor", the checkpoint's transform; None squashes to (S, S).

    Holds no state of the data, so it may be shared by threads and copied to workers.
    Raises UsageError for an unknown mode, InputError for a size below 1 and for a transform of another size, with a
    padding colour for each encoder or with a `short_side`, whose images are of the model's size only at the very end.
    """

    def __init__(
        self, mode: str, size: int, augment: AugmentConfig | None = None, images: ImageTransform | None = None
    ) -> None:
        lookup(mode, MODES, "image mode")
        if size < 1 or (images is not None and images.size != size):
            raise InputError(f"the image size is {size}; give the positive size of the checkpoint's own images")
        if mode == "processor" and images is not None and (len(images.fills) > 1 or images.short_side):
            raise InputError(
                "the checkpoint's transform pads differently for each encoder or crops what it resized, so it makes "
                "no one image of its size; use mode 'exact'"
            )
        self.mode, self.size, self.augment = mode, size, augment
        self._images = images or ImageTransform("resize-naive", (size,), ((0.0, 0.0, 0.0),), ((1.0, 1.0, 1.0),))
        _keep_freed_memory()

    def __call__(
        self,
        data: bytes,
        random: np.random.Generator | None = None,
        source: str = "image",
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """uint8 (S, S, 3) of JPEG or PNG bytes.

        random: the image's own, so that what it becomes depends on neither order nor worker; needed to augment.
        source: names the image in errors.
        out: uint8, C-contiguous, in which the image is made where it is of its shape and that spares a copy; it is then
            what is returned.
        Raises DataError for what `decode_image` refuses.
        """
        fast = self.mode == "fast"
        image = self.resize(decode_image(data, source, self.size if fast else 0, out if fast else None), out)
        if self.augment is None:
            return image
        if random is None:
            raise InputError("augmenting needs a random generator; pass np.random.default_rng((seed, sample))")
        return augment(image, random, self.augment)

    def resize(self, image: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) -> uint8 (S, S, 3); `out` as above."""
        if self.mode == "processor":
            return self._images.resize(image)
        return lanczos3(image, self.size, self.size, out)


def decode_image(
    data: bytes, source: str, at_least: int = 0, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """JPEG or PNG bytes -> uint8 (H, W, 3), RGB.

    at_least, out: see `codec.jpeg.decode_jpeg`; PNG is always decoded whole, into memory of its own.
    Raises DataError naming `source` for damaged bytes, other formats, 16-bit depth maps and transparent pixels.
    """
    if data.startswith(JPEG_MAGIC):
        return _decode_jpeg(data, source, at_least, out)
    if data.startswith(PNG_MAGIC):
        return _decode_png(data, source)
    held = f"bytes that start with {data[:8].hex(' ')}" if data else "an empty string (a padding image)"
    raise DataError(f"{source} holds {held}, neither JPEG nor PNG; there are no pixels to show")


def encode_image(image: NDArray[np.uint8], form: str, source: str) -> bytes:
    """Encode uint8 (H, W, 3) RGB as `form`, "jpeg" (quality 95) or "png". Raises InputError for other arrays."""
    check_image(image, source)
    if form == "jpeg":
        return encode_jpeg(image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _decode_jpeg(data: bytes, source: str, at_least: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    try:
        return decode_jpeg(data, at_least, out)
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


def _keep_freed_memory() -> None:
    """Let the C library keep the memory of one image for the next.

    glibc hands freed memory back until a large block was freed once, and asking for it again costs more time than the
    arithmetic on an image. Elsewhere this does nothing.
    """
    np.empty(1 << 24, np.uint8)
