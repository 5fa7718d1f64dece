from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.codec.jpeg import decode_jpeg, encode_jpeg

NOISE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["bridge64", "p256", "p480x640"])
def test_pixels_are_those_of_tensorflow(shared: Path, name: str) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    assert np.array_equal(decode_jpeg(images[f"{name}_jpeg"].tobytes()), images[f"{name}_decoded"])


@pytest.mark.parametrize("name", ["p256", "p480x640"])
def test_bytes_are_those_of_tensorflow(shared: Path, name: str) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    assert encode_jpeg(images[f"{name}_raw"]) == images[f"{name}_jpeg"].tobytes()


@pytest.mark.parametrize(
    ("shape", "decoded"),
    [((256, 256), (224, 224)), ((480, 640), (240, 320)), ((200, 500), (200, 500)), ((225, 900), (225, 900))],
)
def test_a_smaller_image_may_be_decoded_in_place_of_the_whole(shape: tuple[int, int], decoded: tuple[int, int]) -> None:
    assert decode_jpeg(encode_jpeg(np.zeros((*shape, 3), np.uint8)), at_least=224).shape[:2] == decoded


def test_damaged_bytes_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(encode_jpeg(NOISE)[:-100])


@pytest.mark.parametrize("shape", [(224, 224, 3), (256, 256, 3), (100, 100, 3)])
def test_pixels_may_be_put_where_they_are_wanted(shape: tuple[int, ...]) -> None:
    data, out = encode_jpeg(NOISE), np.zeros(shape, np.uint8)
    image = decode_jpeg(data, 224, out)
    assert np.array_equal(image, decode_jpeg(data, 224))
    assert (image is out) == (shape == (224, 224, 3))


def test_damaged_bytes_are_a_value_error_there_too() -> None:
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(encode_jpeg(NOISE)[:-100], 224, np.zeros((224, 224, 3), np.uint8))
