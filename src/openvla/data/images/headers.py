"""The size of an encoded image from its header, without decoding a pixel."""

from __future__ import annotations

import struct

from openvla.codec.jpeg import JPEG_MAGIC
from openvla.data.images.pixels import PNG_MAGIC
from openvla.errors import DataError, require

PNG_SIZE = struct.Struct(">II")
"""Width and height: bytes 16 to 24, in the IHDR chunk that every PNG begins with."""


def image_size(data: bytes, source: str) -> tuple[int, int]:
    """(height, width) in pixels of a JPEG or PNG. Raises DataError naming `source` for anything else."""
    if data.startswith(PNG_MAGIC) and len(data) >= 24:
        width, height = PNG_SIZE.unpack_from(data, 16)
        return height, width
    if not data.startswith(JPEG_MAGIC):
        held = f"starts with the bytes {data[:8].hex(' ')}" if data else "is an empty string (a padding image)"
        raise DataError(f"{source} {held}, neither JPEG nor PNG; drop the episode, or skip bad episodes")
    try:
        height, width, *_ = require("simplejpeg", "data").decode_jpeg_header(data)
    except ValueError as error:
        raise DataError(f"{source} is a damaged JPEG: {error}; drop the episode, or skip bad episodes") from error
    return height, width
