from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from openvla.codec.resample import lanczos3, lanczos_weights


def lanczos_by_pixel(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """The definition, pixel by pixel in float64: every input within reach, weighted and renormalised."""

    def weights(source: int, target: int) -> NDArray[np.float64]:
        table = np.zeros((target, source))
        stretch = max(1.0, source / target)
        for i in range(target):
            for j in range(source):
                x = (j + 0.5 - (i + 0.5) * source / target) / stretch
                table[i, j] = np.sinc(x) * np.sinc(x / 3) if abs(x) < 3 else 0
        return table / table.sum(axis=1, keepdims=True)

    rows = np.einsum("hy,yxc->hxc", weights(image.shape[0], height), image.astype(np.float64))
    return np.einsum("wx,hxc->hwc", weights(image.shape[1], width), rows)


@pytest.mark.parametrize("name", ["bridge64", "p256", "p480x640"])
def test_the_resize_is_tensorflows_within_a_level(shared: Path, name: str) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    difference = np.abs(lanczos3(images[f"{name}_decoded"], 224, 224).astype(int) - images[f"{name}_resized"])
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9999


@pytest.mark.parametrize(
    ("source", "target"), [((40, 31), (16, 16)), ((9, 50), (20, 20)), ((30, 20), (30, 7)), ((3, 5), (8, 2))]
)
def test_the_resize_is_the_definition_within_rounding(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3)).astype(np.uint8)
    expected = np.rint(lanczos_by_pixel(image, *target)).clip(0, 255)
    difference = np.abs(lanczos3(image, *target) - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


@pytest.mark.parametrize("source", [(1, 1), (1, 7), (300, 2), (64, 64)])
@pytest.mark.parametrize("target", [1, 8, 17])
def test_a_flat_image_stays_flat(source: tuple[int, int], target: int) -> None:
    image = np.full((*source, 3), (0, 131, 255), np.uint8)
    resized = lanczos3(image, target, target)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, np.broadcast_to(image[0, 0], (target, target, 3)))


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert lanczos3(image, 4, 6) is image


def test_only_one_side_may_change() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint8)
    assert np.array_equal(lanczos3(lanczos3(image, 5, 9), 5, 9), lanczos3(image, 5, 9))
    assert lanczos3(image, 12, 4).shape == (12, 4, 3)


@pytest.mark.parametrize(("source", "target"), [(256, 224), (3, 224), (1000, 1), (1, 5)])
def test_weights_sum_to_one_and_lie_in_the_image(source: int, target: int) -> None:
    first, weights = lanczos_weights(source, target)
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-6
    reach = first[:, None] + np.arange(weights.shape[1])
    assert reach[weights != 0].max() < source
    assert first.min() >= 0


def test_an_image_that_is_not_contiguous_is_no_obstacle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint8)
    assert np.array_equal(lanczos3(image[::-1, ::-1], 5, 5), lanczos3(image[::-1, ::-1].copy(), 5, 5))


def test_the_result_may_be_put_where_it_is_wanted_even_over_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    memory = np.zeros(12 * 12 * 3, np.uint8)
    memory[: image.size] = image.ravel()
    room = memory.reshape(12, 12, 3)
    shared = memory[: image.size].reshape(image.shape)
    assert lanczos3(shared, 12, 12, room) is room
    assert np.array_equal(room, lanczos3(image, 12, 12))
