from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla.data.pixels import decode_image, encode_image
from openvla.errors import DataError, InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["bridge64", "p256", "p480x640"])
def test_jpeg_decodes_to_the_pixels_of_tensorflow(shared: Path, name: str) -> None:
    with np.load(shared / "golden/tf_image_golden.npz") as arrays:
        data, pixels = arrays[f"{name}_jpeg"].tobytes(), arrays[f"{name}_decoded"]
    np.testing.assert_array_equal(decode_image(data, "test"), pixels)


@pytest.mark.parametrize("name", ["p256", "p480x640"])
def test_jpeg_encodes_to_the_bytes_of_tensorflow(shared: Path, name: str) -> None:
    with np.load(shared / "golden/tf_image_golden.npz") as arrays:
        data, raw = arrays[f"{name}_jpeg"].tobytes(), arrays[f"{name}_raw"]
    assert encode_image(raw, "jpeg", "test") == data


def test_png_is_lossless() -> None:
    np.testing.assert_array_equal(decode_image(encode_image(PIXELS, "png", "test"), "test"), PIXELS)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grayscale_becomes_rgb(form: str) -> None:
    image = decode_image(encoded(Image.new("L", (5, 4), 77), form), "test")
    assert image.shape == (4, 5, 3)
    assert np.all(image == 77)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_other_opaque_pngs_become_rgb(mode: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode), "PNG"), "test")
    assert image.shape == (4, 5, 3)
    assert np.all(image == 255)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "'x' at step 3 holds an empty string"),
        (b"GIF89a..", "holds bytes that start with 47 49 46 38 39 61 2e 2e, neither JPEG nor PNG"),
        (encode_image(PIXELS, "jpeg", "")[:-40], "is a damaged JPEG"),
        (encode_image(PIXELS, "png", "")[:-40], "is a damaged PNG"),
        (encoded(Image.new("RGBA", (5, 4), (9, 9, 9, 128)), "PNG"), "transparent pixels"),
        (encoded(Image.fromarray(np.ones((4, 5), np.uint16)), "PNG"), "mode I;16, a depth map"),
    ],
)
def test_what_is_no_rgb_image_is_refused_by_name(data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        decode_image(data, "'x' at step 3")


def test_only_rgb_arrays_are_encoded() -> None:
    with pytest.raises(InputError, match="grayscale"):
        encode_image(PIXELS[..., 0], "jpeg", "frame")


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_every_flip_and_every_truncation_decodes_or_is_a_data_error(form: str) -> None:
    data = encode_image(PIXELS, form, "test")
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]):
            with contextlib.suppress(DataError):
                decode_image(damaged, "test")
