from __future__ import annotations

import contextlib
import io
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla.codec.images import ImageTransform
from openvla.data.images.augment import AugmentConfig, augment
from openvla.data.images.pixels import MODES, Pixels, decode_image, encode_image
from openvla.errors import DataError, InputError, UsageError

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


@pytest.mark.parametrize("name", ["bridge64", "p256", "p480x640"])
def test_exact_pixels_are_those_of_published_training(shared: Path, name: str) -> None:
    with np.load(shared / "golden/tf_image_golden.npz") as arrays:
        data, resized = arrays[f"{name}_jpeg"].tobytes(), arrays[f"{name}_resized"]
    assert np.abs(Pixels("exact", 224)(data).astype(int) - resized).max() <= 1


def test_fast_pixels_are_near_the_exact_ones() -> None:
    rows, columns = np.mgrid[0:256, 0:256]
    smooth = np.stack([127 + 120 * np.sin(rows / 20), columns, 127 + 90 * np.cos(columns / 15)], -1).astype(np.uint8)
    data = encode_image(smooth, "jpeg", "test")
    difference = np.abs(Pixels("fast", 224)(data).astype(int) - Pixels("exact", 224)(data))
    assert 0 < difference.mean() < 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(256, 256), (480, 640), (30, 500), (1, 1), (32, 32)])
@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_any_image_comes_out_in_the_models_size(mode: str, shape: tuple[int, int], form: str) -> None:
    image = Pixels(mode, 32)(encode_image(np.zeros((*shape, 3), np.uint8), form, "test"))
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


def test_the_processor_mode_resizes_as_the_checkpoint_does() -> None:
    data = encode_image(PIXELS, "png", "test")
    letterbox = ImageTransform("letterbox", (8,), ((0.5, 0.4, 0.3),), ((0.5, 0.5, 0.5),))
    assert np.array_equal(Pixels("processor", 8, images=letterbox)(data), letterbox.resize(PIXELS))
    naive = np.asarray(Image.fromarray(PIXELS).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(Pixels("processor", 8)(data), naive)


def test_augmentation_comes_after_the_resize_and_from_the_given_generator() -> None:
    data, config = encode_image(PIXELS, "jpeg", "test"), AugmentConfig()
    plain = Pixels("exact", 8)(data)
    changed = Pixels("exact", 8, config)(data, np.random.default_rng(3))
    assert np.array_equal(changed, augment(plain, np.random.default_rng(3), config))


def test_augmentation_without_a_generator_is_refused() -> None:
    with pytest.raises(InputError, match=r"augmenting needs a random generator; pass np\.random\.default_rng"):
        Pixels("exact", 8, AugmentConfig())(encode_image(PIXELS, "jpeg", "test"))


def test_pixels_that_cannot_be_made_are_refused() -> None:
    two = ImageTransform("letterbox", (8, 8), ((0.5,) * 3, (0.4,) * 3), ((0.5,) * 3,) * 2, fill_per_encoder=True)
    with pytest.raises(UsageError, match="unknown image mode 'exat'; did you mean 'exact'"):
        Pixels("exat", 8)
    for size, images in ((0, None), (9, two)):
        with pytest.raises(InputError, match=f"the image size is {size}; give the positive size of the checkpoint's"):
            Pixels("exact", size, images=images)
    with pytest.raises(InputError, match=r"pads differently for each encoder .*; use mode 'exact'"):
        Pixels("processor", 8, images=two)


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_image_is_named(mode: str) -> None:
    with pytest.raises(DataError, match="file 3, step 9 is a damaged JPEG"):
        Pixels(mode, 8)(encode_image(PIXELS, "jpeg", "")[:-40], source="file 3, step 9")


def test_pixels_cross_process_borders() -> None:
    data = encode_image(PIXELS, "jpeg", "test")
    pixels = Pixels("exact", 8, AugmentConfig())
    again = pickle.loads(pickle.dumps(pixels))
    assert np.array_equal(again(data, np.random.default_rng(0)), pixels(data, np.random.default_rng(0)))


def test_a_frame_takes_less_than_a_few_milliseconds() -> None:
    data = encode_image(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), "jpeg", "test")
    pixels, times = Pixels("exact", 224, AugmentConfig()), []
    for number in range(20):
        start = time.perf_counter()
        pixels(data, np.random.default_rng(number))
        times.append(time.perf_counter() - start)
    assert min(times) < 10e-3
