from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data.conftest import plain_episodes

from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics
from openvla.data.bad import BadData
from openvla.data.episode import Episode
from openvla.data.index.find import ensure_index
from openvla.data.loading.batches import Batch, Batches
from openvla.data.loading.frames import Frames, split_mask
from openvla.data.loading.loader import load
from openvla.data.rlds import write_episodes
from openvla.errors import DataError, InputError
from openvla.train.fresh import fresh_checkpoint

UNIT = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 1.0, -1.0, -1.0, 1.0)))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fresh_checkpoint("micro", "metaworld", 0).codec


def frames_of(data: Path, bad: BadData | None = None) -> Frames:
    index = ensure_index(data, "metaworld", bad=bad).index
    return Frames(index, split_mask(index, "train"), UNIT)


def batches_of(data: Path, codec: Codec, size: int = 8, **options: object) -> Batches:
    return Batches(frames_of(data), codec, size, 1, **options)  # pyright: ignore[reportArgumentType]


def assert_equal(ours: Batch, theirs: Batch) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name])


def with_broken_image(place: Path, steps: Sequence[int]) -> Path:
    """Four episodes of which the first has images whose header is whole and whose content is cut."""
    good = list(plain_episodes(4))
    images = good[0].steps["observation|image"].copy()
    for step in steps:
        images[step] = images[step][:-8]
    first = Episode({**good[0].steps, "observation|image": images}, good[0].metadata, "x", good[0].features)
    return write_episodes(place, [first, *good[1:]], name="d")


def test_a_batch_depends_on_its_step_alone(toy_data: Path, codec: Codec) -> None:
    ours, theirs = batches_of(toy_data, codec, 5), batches_of(toy_data, codec, 5)
    for step in (30, 0, 19, 20):  # batch 19 spans two epochs
        assert_equal(ours[step], theirs[step])


def test_an_epoch_shows_every_frame_once(toy_data: Path, codec: Codec) -> None:
    batches = batches_of(toy_data, codec)
    means = np.concatenate([batches[step]["pixel_values"].mean((1, 2, 3, 4)) for step in range(24)])
    assert np.array_equal(np.sort(means[:96]), np.sort(means[96:]))
    assert not np.array_equal(means[:96], means[96:])


@pytest.mark.parametrize(("workers", "use_processes"), [(1, False), (3, False), (2, True)])
def test_workers_change_neither_content_nor_order(
    toy_data: Path, codec: Codec, workers: int, use_processes: bool
) -> None:
    batches = batches_of(toy_data, codec)
    made = load(batches, range(3, 12), workers=workers, use_processes=use_processes)
    for step, batch in zip(range(3, 12), made, strict=True):
        assert_equal(batch, batches[step])


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_loader_that_starts_later_goes_on_with_the_very_next_sample(toy_data: Path, codec: Codec, start: int) -> None:
    straight = list(load(batches_of(toy_data, codec), range(9)))
    resumed = list(load(batches_of(toy_data, codec), range(start, 9), workers=2))
    for ours, theirs in zip(resumed, straight[start:], strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_of_a_step_hold_the_same_samples_together(toy_data: Path, codec: Codec, world: int) -> None:
    alone = batches_of(toy_data, codec)
    ranks = [batches_of(toy_data, codec, rank=rank, world=world) for rank in range(world)]
    for step in (0, 5):
        together = np.concatenate([rank[step]["pixel_values"] for rank in ranks])
        assert sorted(map(bytes, together)) == sorted(map(bytes, alone[step]["pixel_values"]))


def test_a_mixture_draws_by_weight(toy_data: Path, shards: Path, codec: Codec) -> None:
    both = Batches([frames_of(toy_data), frames_of(shards)], codec, 64, 1, weights=[3, 1])
    toy = {bytes(image) for step in range(12) for image in batches_of(toy_data, codec)[step]["pixel_values"]}
    drawn = [bytes(image) in toy for step in range(6) for image in both[step]["pixel_values"]]
    assert 0.65 < np.mean(drawn) < 0.85
    assert len(both) == 96 + 45


def test_a_frame_that_cannot_be_read_stops_the_loader(tmp_path: Path, codec: Codec) -> None:
    batches = batches_of(with_broken_image(tmp_path / "d", [2]), codec)
    with pytest.raises(DataError, match=r"record 0 at byte 0, step 2: at byte \d+: the image is a damaged JPEG"):
        list(load(batches, range(6)))


@pytest.mark.parametrize(("workers", "use_processes"), [(2, False), (2, True)])
def test_or_another_frame_takes_its_place_always_the_same_and_it_is_listed(
    tmp_path: Path, codec: Codec, workers: int, use_processes: bool
) -> None:
    data = with_broken_image(tmp_path / "d", [2, 3])
    ours, theirs = (batches_of(data, codec, bad=BadData("skip")) for _ in range(2))
    made = load(ours, range(9), workers=workers, use_processes=use_processes)
    for step, batch in enumerate(made):
        assert len(batch["input_ids"]) == 8
        assert_equal(batch, theirs[step])
    assert sorted(re.findall(r"step \d", " ".join(ours.bad.skipped))) == ["step 2", "step 3"]
    assert ours.bad.summary().startswith("skipped 2:")


def test_nothing_but_bad_frames_is_an_error_even_where_they_are_skipped(tmp_path: Path, codec: Codec) -> None:
    good = next(plain_episodes(1))
    images = good.steps["observation|image"].copy()
    for step in range(5):
        images[step] = images[step][:-8]
    bad = Episode({**good.steps, "observation|image": images}, good.metadata, "x", good.features)
    batches = batches_of(write_episodes(tmp_path / "d", [bad], name="d"), codec, bad=BadData("skip"))
    with pytest.raises(DataError, match=r"20 frames in a row cannot be used, the last: .*damaged JPEG"):
        batches[0]


def test_no_frames_are_refused(toy_data: Path, codec: Codec) -> None:
    frames = frames_of(toy_data)
    none = Frames(frames.index, np.zeros(len(frames.index), bool), UNIT)
    with pytest.raises(DataError, match="there are no training frames"):
        Batches(none, codec, 4, seed=0)


def test_workers_must_be_some(toy_data: Path, codec: Codec) -> None:
    with pytest.raises(InputError, match="0 workers that are 2 batches ahead cannot load anything"):
        next(load(batches_of(toy_data, codec), range(3), workers=0))


def test_a_loader_that_is_left_early_stops_its_workers(toy_data: Path, codec: Codec) -> None:
    made = load(batches_of(toy_data, codec), range(10_000), workers=2)
    next(made)
    made.close()


def test_what_loads_data_never_loads_torch() -> None:
    code = (
        "import sys, openvla.data.index.find\n"
        "from openvla.data.loading import bench, loader, stream\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


Grower = Callable[[int], int]


def test_memory_does_not_grow_with_the_samples_that_are_drawn(toy_data: Path, codec: Codec) -> None:
    from openvla.data.loading.bench import resident_bytes

    frames = frames_of(toy_data)
    batches = Batches(frames, codec, 64, 1)
    for step in range(20):
        batches[step]
    before = resident_bytes()
    for step in range(20, 120):
        batches[step]
    assert resident_bytes() - before < 10e6
