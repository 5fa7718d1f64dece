from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from openvla.data.images.augment import DRAWS, AugmentConfig, apply, augment
from openvla.data.images.augment_batch import augment_batch
from openvla.errors import InputError

PUBLISHED = AugmentConfig()
STILL = AugmentConfig(1.0, brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
NOTHING = np.full(DRAWS, 0.5)
STEPS = ("random_resized_crop", "random_brightness", "random_contrast", "random_saturation", "random_hue")


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise over a slope, with a grey, a black, a white and a pure red corner."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image[:2, :2], image[:2, -2:], image[-2:, :2], image[-2:, -2:] = 90, 0, 255, (255, 0, 0)
    return image


def places(first: np.float32, side: np.float32, last: int) -> list[np.float32]:
    """Where along one axis the pixels lie, in float32 as TensorFlow computes it."""
    step = (first + side - first) * np.float32(last) / np.float32(last)
    return [first * np.float32(last) + np.float32(i) * step for i in range(last + 1)]


def crop_by_pixel(image: NDArray[np.float64], down: float, across: float, area: float) -> NDArray[np.float64]:
    """Bilinear sampling between aligned corners, one pixel at a time."""
    height, width = image.shape[:2]
    side = np.sqrt(np.float32(area))
    top, left = (np.float32(draw) * (np.float32(1) - side) for draw in (down, across))
    out = np.empty_like(image)
    for i, y in enumerate(places(top, side, height - 1)):
        for j, x in enumerate(places(left, side, width - 1)):
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            upper = image[y0, x0] + (image[y0, x1] - image[y0, x0]) * (x - x0)
            lower = image[y1, x0] + (image[y1, x1] - image[y1, x0]) * (x - x0)
            out[i, j] = upper + (lower - upper) * (y - y0)
    return out


def published(image: NDArray[np.floating], draws: NDArray[np.float64], config: AugmentConfig) -> NDArray[np.float64]:
    """The published steps one after another, in float64, with the standard library's HSV."""
    down, across, brightness, contrast, saturation, hue = draws
    across = down if config.diagonal_crop else across
    pixels = crop_by_pixel(image.astype(np.float64), down, across, config.crop_area).clip(0, 1)
    pixels = (pixels + config.brightness * (2 * brightness - 1)).clip(0, 1)
    means = pixels.mean(axis=(0, 1))
    low, high = config.contrast
    pixels = ((pixels - means) * (low + (high - low) * contrast) + means).clip(0, 1)
    low, high = config.saturation
    factor, shift = low + (high - low) * saturation, config.hue * (2 * hue - 1)
    for place in np.ndindex(pixels.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*pixels[place])
        h, s, v = colorsys.rgb_to_hsv(*colorsys.hsv_to_rgb(h, min(s * factor, 1), v))
        pixels[place] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    return pixels


def test_the_result_is_the_published_one_within_a_level(shared: Path) -> None:
    golden = np.load(shared / "golden" / "aug_golden.npz")
    crop, *colours = (float(golden[name]) for name in STEPS)
    changed = apply(golden["img"], np.array([crop, 0.123, *colours]), PUBLISHED)
    difference = np.abs(changed.astype(int) - golden["out"])
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9999


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("diagonal", [True, False])
def test_each_step_is_the_published_formula(seed: int, diagonal: bool) -> None:
    config = AugmentConfig(0.6, diagonal, 0.3, (0.5, 1.6), (0.2, 2.5), 0.5)
    image = (picture(13, 17, seed) / 255).astype(np.float32)
    draws = np.random.default_rng(seed).random(DRAWS)
    assert np.abs(apply(image, draws, config) - published(image, draws, config)).max() < 1e-6


def test_published_ranges_agree_to_float_precision() -> None:
    image = (picture(9, 14) / 255).astype(np.float32)
    for draws in np.random.default_rng(3).random((20, DRAWS)):
        assert np.abs(apply(image, draws, PUBLISHED) - published(image, draws, PUBLISHED)).max() < 4e-7


def test_bytes_become_bytes_by_truncating_a_little_above() -> None:
    image, draws = picture(11, 12), np.random.default_rng(1).random(DRAWS)
    exact = published(image / 255, draws, PUBLISHED)
    assert np.abs(apply(image, draws, PUBLISHED) - np.floor(exact * 255.5)).max() <= 1
    assert np.array_equal(apply(image, NOTHING, STILL), image)


def test_a_batch_in_torch_has_the_same_numbers() -> None:
    images, draws = np.stack([picture(15, 18, seed) for seed in range(5)]), np.random.default_rng(2).random((5, DRAWS))
    for config in (PUBLISHED, AugmentConfig(0.5, False, 1.0, (0, 3), (0, 3), 0.5), STILL):
        floats = (images / 255).astype(np.float32)
        alone = np.stack([apply(image, draw, config) for image, draw in zip(floats, draws, strict=True)])
        batch = augment_batch(torch.from_numpy(floats).permute(0, 3, 1, 2), torch.from_numpy(draws), config)
        assert np.abs(batch.permute(0, 2, 3, 1).numpy() - alone).max() < 1e-5
        alone = np.stack([apply(image, draw, config) for image, draw in zip(images, draws, strict=True)])
        batch = augment_batch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(draws), config)
        assert np.abs(batch.permute(0, 2, 3, 1).numpy().astype(int) - alone).max() <= 1


def test_windows_lie_on_the_diagonal_unless_told_otherwise() -> None:
    slope = np.stack(np.broadcast_arrays(*np.ogrid[0:1:32j, 0:1:32j], 0.5), axis=-1).astype(np.float32)
    config = AugmentConfig(0.5, brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
    anywhere = AugmentConfig(0.5, False, brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0)
    draws = np.random.default_rng(0).random((20, DRAWS))
    corners = np.array([apply(slope, draw, config)[0, 0] for draw in draws])
    assert np.abs(corners[:, 0] - corners[:, 1]).max() < 1e-6
    assert np.abs(corners[:, 0] - draws[:, 0] * (1 - 0.5**0.5)).max() < 1e-6
    corners = np.array([apply(slope, draw, anywhere)[0, 0] for draw in draws])
    assert np.abs(corners[:, :2] - draws[:, :2] * (1 - 0.5**0.5)).max() < 1e-6


def test_an_image_depends_on_its_own_seed_alone() -> None:
    image = picture(16, 16)
    there = [augment(image, np.random.default_rng((7, number)), PUBLISHED) for number in range(4)]
    back = [augment(image, np.random.default_rng((7, number)), PUBLISHED) for number in reversed(range(4))]
    assert all(np.array_equal(one, other) for one, other in zip(there, reversed(back), strict=True))
    assert not np.array_equal(there[0], there[1])


def test_the_draws_do_not_depend_on_the_config() -> None:
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    augment(picture(4, 4), one, PUBLISHED)
    augment(picture(4, 4), other, STILL)
    assert one.random() == other.random()


def test_the_image_itself_is_left_alone() -> None:
    for image in (picture(8, 8), (picture(8, 8) / 255).astype(np.float32)):
        before = image.copy()
        augment(image, np.random.default_rng(0), AugmentConfig(1.0))
        assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 1)])
def test_an_image_of_few_pixels_stays_finite(shape: tuple[int, int]) -> None:
    assert apply(np.full((*shape, 3), 128, np.uint8), NOTHING, PUBLISHED).shape == (*shape, 3)
    batch = torch.full((2, 3, *shape), 0.5)
    assert torch.isfinite(augment_batch(batch, torch.full((2, DRAWS), 0.9), PUBLISHED)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_area": 0}, r"crop_area is 0; give a share of the image above 0 and up to 1"),
        ({"brightness": -0.1}, r"brightness is -0\.1; give a number in 0\.\.1"),
        ({"hue": 0.6}, r"hue is 0\.6; give a number in 0\.\.0\.5"),
        ({"contrast": (1.2, 0.8)}, r"contrast is \(1\.2, 0\.8\); give the smallest and the largest factor"),
        ({"saturation": (0.5, float("inf"))}, r"saturation is \(0\.5, inf\)"),
        ({"hue": float("nan")}, "hue is nan"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AugmentConfig(**values)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_image_is_refused(image: NDArray[Any]) -> None:
    with pytest.raises(InputError, match=r"the image to augment is .*; give \(height, width, 3\), uint8 or float32"):
        augment(image, np.random.default_rng(0), PUBLISHED)


def test_a_batch_of_another_form_is_refused() -> None:
    with pytest.raises(InputError, match=r"the images to augment are torch.uint8 of shape \(2, 4, 4, 3\); give"):
        augment_batch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, DRAWS), PUBLISHED)
    with pytest.raises(InputError, match=r"the draws have shape \(2, 5\); give \(2, 6\), one row an image"):
        augment_batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5), PUBLISHED)
