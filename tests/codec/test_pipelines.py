from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.codec.jpeg import decode_jpeg
from openvla.codec.pipelines import PIPELINES, evaluation_image, jpeg_image, training_image

FRAME = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("name", ["bridge64", "p256", "p480x640"])
def test_training_is_the_published_decode_and_resize(shared: Path, name: str) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    made = training_image(decode_jpeg(images[f"{name}_jpeg"].tobytes()), 224)
    assert np.abs(made.astype(int) - images[f"{name}_resized"]).max() <= 1


def test_evaluation_is_the_published_round_trip_resize_and_crop(shared: Path) -> None:
    images = np.load(shared / "golden" / "tf_image_golden.npz")
    resized = jpeg_image(images["p256_raw"], 224)
    assert np.abs(resized.astype(int) - images["p256_resized"]).max() <= 1
    cropped = evaluation_image(images["p256_raw"], 224)
    assert np.abs(cropped.astype(int) - images["p256_center_crop"]).max() <= 1


def test_the_processor_leaves_everything_to_the_transform() -> None:
    assert PIPELINES["processor"](FRAME, 8) is FRAME


@pytest.mark.parametrize("name", ["training", "evaluation"])
def test_the_others_make_images_of_the_models_size(name: str) -> None:
    assert PIPELINES[name](FRAME, 8).shape == (8, 8, 3)
