from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openvla.codec.crop import center_crop


def sample(image: NDArray[np.uint8], y: float, x: float) -> NDArray[np.float64]:
    """The image at one place between pixel centres, in [0, 255]."""
    top, left = int(y), int(x)
    bottom, right = min(top + 1, len(image) - 1), min(left + 1, len(image[0]) - 1)
    upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
    lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def test_the_crop_equals_the_published_one_byte_for_byte(shared: Path) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    assert np.array_equal(center_crop(images["p256_resized"], 0.9), images["p256_center_crop"])


@pytest.mark.parametrize("area", [0.9, 0.25])
def test_the_crop_equals_sampling_pixel_by_pixel(area: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    side = area**0.5
    rows, columns = (((1 - side) / 2 + side * np.linspace(0, 1, n)) * (n - 1) for n in (12, 17))
    expected = np.array([[sample(image, y, x) for x in columns] for y in rows])
    assert np.abs(center_crop(image, area) - expected).max() <= 1


def test_a_crop_is_no_slower_than_a_few_milliseconds() -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    times: list[float] = []
    for _ in range(20):
        start = time.perf_counter()
        center_crop(image, 0.9)
        times.append(time.perf_counter() - start)
    assert min(times) < 5e-3


def test_the_whole_area_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 1, 3), np.uint8)
    assert np.array_equal(center_crop(image, 1.0), image)
