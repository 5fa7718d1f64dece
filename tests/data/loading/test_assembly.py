from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data.conftest import plain_episodes

from openvla.codec.batch import Example, collate
from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform
from openvla.codec.statistics import FieldStatistics
from openvla.data.images.augment import AugmentConfig
from openvla.data.images.pixels import MODES, Pixels
from openvla.data.index.find import ensure_index
from openvla.data.loading.assembly import Assembly, Examples
from openvla.data.loading.frames import Frames, split_mask
from openvla.data.rlds import write_episodes
from openvla.errors import InputError
from openvla.train.fresh import fresh_checkpoint

UNIT = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 1.0, -1.0, -1.0, 1.0)))
WIDE = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 3.0, -2.0, -2.0, 3.0)))
GREY = ((0.5, 0.5, 0.5),)
SEED = (3, 1, 0)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fresh_checkpoint("micro", "metaworld", 0).codec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 32 pixels: of a codec's size for the fast mode at 7/8 of them."""
    place = tmp_path_factory.mktemp("data") / "d"
    return write_episodes(place, plain_episodes(4, size=32), name="d")


def frames_of(data: Path, pixels: Pixels | None = None, chunk: int = 1, statistics: FieldStatistics = UNIT) -> Frames:
    index = ensure_index(data, "metaworld").index
    return Frames(index, split_mask(index, "train"), statistics, chunk, pixels=pixels)


def assembled(codec: Codec, drawn: list[tuple[Examples, int]]) -> dict[str, NDArray[Any]]:
    batch = Assembly(codec, len(drawn))
    for source, number in drawn:
        batch.add(source, number, (*SEED, number))
    return batch.finish()


def assert_is_what_examples_give(codec: Codec, drawn: list[tuple[Examples, int]]) -> None:
    slow = collate([source.example(number, codec, (*SEED, number)) for source, number in drawn], codec.pad_token_id)
    fast = assembled(codec, drawn)
    assert fast.keys() == slow.keys()
    for name, values in slow.items():
        assert fast[name].dtype == values.dtype
        assert np.array_equal(fast[name], values)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [28, 32, 40])
def test_a_batch_is_bit_for_bit_what_its_examples_give(
    data: Path, codec: Codec, mode: str, size: int, augmented: bool
) -> None:
    codec = replace(codec, images=replace(codec.images, sizes=(size,) * len(codec.images.sizes)))
    frames = frames_of(data, Pixels(mode, size, AugmentConfig() if augmented else None))
    assert_is_what_examples_give(codec, [(frames, number) for number in (7, 0, 3, 3, 19)])


@pytest.mark.parametrize("pipeline", ["training", "evaluation", "processor"])
def test_so_it_is_for_images_that_the_codec_brings_to_size(data: Path, codec: Codec, pipeline: str) -> None:
    codec = replace(codec, image_pipeline=pipeline)
    assert_is_what_examples_give(codec, [(frames_of(data), number) for number in (1, 2, 0)])


@pytest.mark.parametrize("pipeline", ["training", "processor"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [20, 28, 36])
def test_so_it_is_for_images_that_are_made_at_another_size_than_the_models(
    data: Path, codec: Codec, mode: str, size: int, pipeline: str
) -> None:
    assert codec.images.size == 28
    frames = frames_of(data, Pixels(mode, size))
    assert_is_what_examples_give(replace(codec, image_pipeline=pipeline), [(frames, number) for number in (1, 2, 0)])


def test_so_it_is_where_each_encoder_pads_in_its_own_colour(data: Path, codec: Codec) -> None:
    means = ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    images = ImageTransform("letterbox", (28, 28), means, GREY * 2, fill_per_encoder=True)
    codec = replace(codec, images=images, image_pipeline="processor")
    frames = frames_of(data)
    assert_is_what_examples_give(codec, [(frames, number) for number in (1, 2)])
    assert assembled(codec, [(frames, 1)])["pixel_values"].shape[:2] == (1, 2)


def test_so_it_is_for_chunks_of_a_mixture_each_with_its_own_statistics(data: Path, codec: Codec) -> None:
    codec = replace(codec, chunk=3)
    one, other = frames_of(data, chunk=3), frames_of(data, chunk=3, statistics=WIDE)
    assert_is_what_examples_give(codec, [(one, 0), (other, 0), (other, 5), (one, 7)])


class Whole:
    """A source of another kind, which gives whole examples, with these pixels where there are any."""

    def __init__(self, frames: Frames, pixels: NDArray[np.uint8] | None = None) -> None:
        self.frames, self.pixels = frames, pixels

    def __len__(self) -> int:
        return len(self.frames)

    def example(self, number: int, codec: Codec, seed: tuple[int, ...] = (0,)) -> Example:
        made = self.frames.example(number, codec, seed)
        return replace(made, has_image=False, pixel_values=made.pixel_values if self.pixels is None else self.pixels)


def test_frames_and_whole_examples_stand_in_the_order_in_which_they_were_added(data: Path, codec: Codec) -> None:
    frames = frames_of(data)
    assert_is_what_examples_give(codec, [(Whole(frames), 4), (frames, 0), (Whole(frames), 1), (frames, 2)])


def test_images_of_another_shape_are_refused(data: Path, codec: Codec) -> None:
    small = frames_of(data, Pixels("exact", 20))
    codec = replace(codec, images=ImageTransform("letterbox", (20,), GREY, GREY))
    batch = Assembly(codec, 2)
    batch.add(small, 0, SEED)
    with pytest.raises(InputError, match=r"image 1 of a batch is \(1, 8, 8, 3\), the ones before it \(1, 20, 20, 3\)"):
        batch.add(Whole(small, np.zeros((1, 8, 8, 3), np.uint8)), 1, SEED)
