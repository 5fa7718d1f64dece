from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from openvla.codec.codec import Codec
from openvla.data.loading.batches import Batch, Batches
from openvla.model.checkpoint import load_checkpoint
from openvla.train.config import TrainConfig
from openvla.train.data import load_batches, with_crop, with_statistics
from openvla.train.loop import train
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]


def opened(config: TrainConfig, **changes: object) -> tuple[Codec, Batches, Batches]:
    """The codec, the training and the validation batches of a run."""
    codec = with_crop(with_statistics(starting_point(config).codec, config), config)
    codec = replace(codec, **changes)  # pyright: ignore[reportArgumentType]
    training, validation = load_batches(config, codec)
    assert validation is not None
    return codec, training, validation


def test_a_new_model_looks_at_images_as_published_training_does(config: Make) -> None:
    assert starting_point(config()).codec.image_pipeline == "training"


def test_augmentation_changes_training_images_and_nothing_else(config: Make) -> None:
    _, plain, plain_validation = opened(config())
    _, changed, changed_validation = opened(config(augment=True))
    one, other = plain[0], changed[0]
    assert np.array_equal(one["input_ids"], other["input_ids"])
    assert levels(one, other) > 1
    assert np.array_equal(plain_validation[0]["pixel_values"], changed_validation[0]["pixel_values"])


def test_an_image_is_augmented_the_same_way_whenever_it_is_asked_for(config: Make) -> None:
    _, first, _ = opened(config(augment=True))
    _, second, _ = opened(config(augment=True))
    later = first[5]["pixel_values"]
    assert [second[step]["pixel_values"] is not None for step in (3, 1)] == [True, True]
    assert np.array_equal(second[5]["pixel_values"], later)
    assert not np.array_equal(first[0]["pixel_values"], later)


def levels(ours: Batch, theirs: Batch) -> float:
    """The mean difference of two batches of uint8 images."""
    return float(np.abs(ours["pixel_values"].astype(int) - theirs["pixel_values"].astype(int)).mean())


def small(config: TrainConfig, **changes: object) -> Batch:
    """The images of the first batch for a model that looks at 20 pixels, where the data has 28."""
    images = starting_point(config).codec.images
    return opened(config, images=replace(images, sizes=(20, 20)), **changes)[1][0]


def test_each_pipeline_is_augmented_by_its_own_resize(config: Make) -> None:
    training, processor = (small(config(augment=True), image_pipeline=name) for name in ("training", "processor"))
    assert training["pixel_values"].shape == processor["pixel_values"].shape == (4, 1, 20, 20, 3)
    assert 0 < levels(training, processor) < 30


def test_fast_images_are_near_the_exact_ones(config: Make) -> None:
    exact, fast = (small(config(fast_images=fast)) for fast in (False, True))
    assert 0 < levels(exact, fast) < 30


def test_the_crop_is_recorded_for_inference_and_only_where_there_was_one(config: Make, tmp_path: Path) -> None:
    cropped = train(config(steps=1, augment=True)).final
    assert load_checkpoint(cropped).codec.training_crop == 0.9
    again = train(config(steps=1, checkpoint=str(cropped), output=tmp_path / "again")).final
    assert load_checkpoint(again).codec.training_crop is None
