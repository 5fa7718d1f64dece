from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from openvla.codec.images import NORMALIZATION, STRATEGIES, ImageTransform
from openvla.errors import InputError, UsageError

RNG = np.random.default_rng(0)


def transform(strategy: str, size: int, *families: str) -> ImageTransform:
    constants = [NORMALIZATION[family] for family in families]
    means, stds = tuple(mean for mean, _ in constants), tuple(std for _, std in constants)
    return ImageTransform(strategy, (size,) * len(families), means, stds)


def picture(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("name", "size"), [("micro", 56), ("tiny", 224)])
def test_pixels_equal_the_published_ones_bit_for_bit(
    golden: Path, shared: Path, name: str, size: int, strategy: str
) -> None:
    folder = golden / name if name == "micro" else shared / "golden" / name
    key = "pixel_values" if strategy == "resize-naive" else f"pixel_values.{strategy}"
    image = np.asarray(Image.open(folder / "image.png"))
    pixels = transform(strategy, size, "dinov2", "siglip")(image)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, load_file(folder / "golden.safetensors")[key][0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_image_of_the_right_size_is_only_normalised(strategy: str) -> None:
    image = picture(32, 32)
    mean, std = NORMALIZATION["clip"]
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    assert np.abs(transform(strategy, 32, "clip")(image) - expected).max() < 1e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", [(333, 224), (224, 333), (1, 1), (1, 500), (37, 36), (640, 480)])
def test_any_shape_comes_out_square_and_finite(strategy: str, shape: tuple[int, int]) -> None:
    pixels = transform(strategy, 28, "dinov2", "siglip")(picture(*shape))
    assert pixels.shape == (6, 28, 28)
    assert np.isfinite(pixels).all()


def test_channels_are_stacked_encoder_by_encoder() -> None:
    image = picture(20, 30)
    both = transform("resize-naive", 16, "dinov2", "siglip")(image)
    alone = [transform("resize-naive", 16, family)(image) for family in ("dinov2", "siglip")]
    assert np.array_equal(both, np.concatenate(alone))


def test_a_letterbox_is_filled_with_the_last_encoders_mean_or_the_given_colour() -> None:
    letterbox = transform("letterbox", 16, "siglip", "dinov2")
    assert letterbox.resize(picture(64, 16))[0, 0].tolist() == [123, 116, 103]
    assert replace(letterbox, fill=(1, 2, 3)).resize(picture(64, 16))[0, 0].tolist() == [1, 2, 3]


def test_each_encoder_may_have_a_letterbox_of_its_own_mean() -> None:
    letterbox = transform("letterbox", 16, "dinov2", "siglip")
    shared_fill, own_fill = letterbox, replace(letterbox, fill_per_encoder=True)
    image = picture(64, 16)
    assert [view[0, 0].tolist() for view in shared_fill.views(image)] == [[127, 127, 127]]
    assert [view[0, 0].tolist() for view in own_fill.views(image)] == [[123, 116, 103], [127, 127, 127]]
    alone = [transform("letterbox", 16, family)(image) for family in ("dinov2", "siglip")]
    assert np.array_equal(own_fill(image), np.concatenate(alone))


def test_encoders_of_one_mean_share_their_letterbox() -> None:
    assert len(replace(transform("letterbox", 16, "siglip", "in1k"), fill_per_encoder=True).views(picture(9, 5))) == 1


@pytest.mark.parametrize("strategy", ["resize-crop", "letterbox"])
def test_a_larger_short_side_is_cropped_even_from_an_image_of_the_right_size(strategy: str) -> None:
    quirk = replace(transform(strategy, 224, "clip"), short_side=248)
    image = picture(224, 224)
    larger = np.asarray(Image.fromarray(image).resize((248, 248), Image.Resampling.BICUBIC))
    assert np.array_equal(quirk.resize(image), larger[12:-12, 12:-12])
    assert quirk.resize(picture(300, 200)).shape == (224, 224, 3)
    naive = replace(quirk, strategy="resize-naive")
    assert naive.resize(image) is image


def test_an_odd_letterbox_is_a_pixel_short_unless_told_otherwise() -> None:
    image = np.full((16, 21, 3), 200, np.uint8)
    short, full = transform("letterbox", 21, "siglip"), replace(transform("letterbox", 21, "siglip"), full_square=True)
    assert full.resize(image)[:2].max() == 127
    assert np.array_equal(full.resize(image)[2:18], image)
    assert full.resize(image)[18:].max() == 127
    padded = np.full((20, 21, 3), 127, np.uint8)
    padded[2:18] = 200
    resized = np.asarray(Image.fromarray(padded).resize((22, 21), Image.Resampling.BICUBIC))
    assert np.array_equal(short.resize(image), resized[:, :21])


@pytest.mark.parametrize("strategy", ["resize-crop", "letterbox"])
def test_an_image_too_long_to_keep_its_shape_is_refused(strategy: str) -> None:
    with pytest.raises(
        InputError, match=rf"the image is 100000 x 1 pixels, so long that '{strategy}' would need \d+ mil"
    ):
        transform(strategy, 224, "siglip")(picture(100_000, 1))
    assert transform("resize-naive", 28, "siglip")(picture(100_000, 1)).shape == (3, 28, 28)


def test_a_crop_keeps_the_middle_of_the_long_side() -> None:
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = 200
    assert (transform("resize-crop", 16, "siglip").resize(image)[:, 3:-3] == 200).all()


def test_an_image_of_the_right_size_takes_less_than_a_third_of_a_millisecond() -> None:
    small, image = transform("resize-naive", 128, "siglip"), picture(128, 128)
    fastest = 1.0
    for _ in range(50):
        start = time.perf_counter()
        small(image)
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.3e-3


def test_what_is_no_camera_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"image has shape \(4, 4\), .*grayscale"):
        transform("resize-naive", 16, "siglip")(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (16, 16)}, "one size, mean and std per encoder; got 2 sizes, 1 means and 1 stds"),
        ({"sizes": (0,)}, r"the image sizes \(0,\) must be one positive size"),
        ({"fill": (0, 0, 256)}, r"the letterbox fill is \(0, 0, 256\) with fill_per_encoder=False; give one colour"),
        (
            {"fill": (1, 2, 3), "fill_per_encoder": True},
            r"the letterbox fill is \(1, 2, 3\) with fill_per_encoder=True",
        ),
        ({"short_side": 15}, "short_side is 15; it must be from 16, the size, to 4 times that"),
        ({"stds": ((0.5, 0.0, 0.5),)}, r"the image stds .* must be positive; they divide the pixels"),
    ],
)
def test_constants_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(transform("resize-naive", 16, "siglip"), **changes)


def test_encoders_of_different_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"the image sizes \(16, 32\) must be one positive size, the same for every"):
        replace(transform("resize-naive", 16, "siglip", "dinov2"), sizes=(16, 32))


def test_an_unknown_strategy_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown resize strategy 'resize-native'; did you mean 'resize-naive'"):
        transform("resize-native", 16, "siglip")
