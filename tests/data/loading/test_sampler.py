from __future__ import annotations

import time

import numpy as np
import pytest

from openvla.data.loading.sampler import BLOCK, Sampler, step_numbers
from openvla.errors import DataError, InputError

THREE = Sampler(sizes=(50, 1000, 7), weights=(1.0, 0.25, 0.06), seed=3)


def test_an_epoch_of_one_data_set_shows_every_frame_once_and_the_next_in_another_order() -> None:
    _, frames = Sampler((88,), (1.0,), 0).draw(np.arange(2 * 88))
    first, second = frames[:88], frames[88:]
    assert sorted(first) == sorted(second) == list(range(88))
    assert not np.array_equal(first, second)


def test_each_data_set_of_a_mixture_is_walked_through_without_repeats() -> None:
    sources, frames = THREE.draw(np.arange(2 * BLOCK))
    for source, size in enumerate(THREE.sizes):
        mine = frames[sources == source]
        assert len(mine) > size
        counts = np.bincount(mine, minlength=size)
        assert counts.max() - counts.min() <= 2  # the blocks walk out of order within themselves
    assert set(np.bincount(frames[sources == 0]) - np.bincount(frames[sources == 0]).min()) <= {0, 1, 2}


def test_turns_of_a_data_set_are_a_gapless_count() -> None:
    sources, turns = THREE._turns(np.arange(3 * BLOCK))
    for source in range(3):
        assert np.array_equal(np.sort(turns[sources == source]), np.arange((sources == source).sum()))


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_shares_are_the_weights_to_within_a_sample_per_data_set(blocks: int) -> None:
    sources, _ = THREE.draw(np.arange(blocks * BLOCK))
    wanted = np.array(THREE.weights) / sum(THREE.weights) * blocks * BLOCK
    assert np.abs(np.bincount(sources) - wanted).max() < 3


def test_turns_are_mixed_at_random_places() -> None:
    sources, _ = Sampler((9, 9), (1.0, 1.0), 0).draw(np.arange(20_000))
    runs = 1 + (np.diff(sources) != 0).sum()
    assert abs(runs - 10_000) < 300  # as of independent draws: deviation 71


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    everything = THREE.draw(np.arange(1000))
    for number in (0, 1, 500, 999):
        assert [part[0] for part in THREE.draw([number])] == [part[number] for part in everything]
    other = Sampler(THREE.sizes, THREE.weights, seed=4).draw(np.arange(1000))
    assert not np.array_equal(other[1], everything[1])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_of_a_step_draw_the_same_samples_together(world: int) -> None:
    alone = step_numbers(17, 32)
    together = np.concatenate([step_numbers(17, 32, rank, world) for rank in range(world)])
    assert sorted(together) == list(alone)
    assert set(zip(*THREE.draw(together), strict=True)) == set(zip(*THREE.draw(alone), strict=True))


def test_a_stand_in_comes_from_the_same_data_set_and_is_another_frame() -> None:
    numbers = np.arange(200)
    first, again = THREE.draw(numbers), THREE.draw(numbers, attempt=1)
    assert np.array_equal(first[0], again[0])
    assert (first[1] != again[1]).mean() > 0.8


def test_far_along_a_run_the_numbers_are_still_right() -> None:
    far = 10**12
    sources, frames = THREE.draw(np.arange(far, far + 1000))
    assert set(sources) == {0, 1, 2}
    assert (frames < np.array(THREE.sizes)[sources]).all()


def test_fifty_thousand_samples_a_second_from_a_million_episodes() -> None:
    many = Sampler((30_000_000,) * 27, tuple(np.linspace(0.1, 3, 27)), 0)
    many.draw([0])
    start = time.perf_counter()
    for step in range(20):
        many.draw(step_numbers(step, 1024))
    assert 20 * 1024 / (time.perf_counter() - start) > 25_000  # alone on a core: 600,000; the machine may be shared


@pytest.mark.parametrize(
    ("sizes", "weights", "sentence"),
    [
        ((1, 2), (1.0,), "2 data sets and 1 weights"),
        ((), (), "0 data sets"),
        ((1,), (0.0,), r"the weights are \[0.0\]; each must be a number above 0"),
        ((1,), (float("nan"),), "each must be a number above 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(sizes: tuple[int, ...], weights: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Sampler(sizes, weights, 0)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="data set number 1 of the mixture has no frames to draw"):
        Sampler((3, 0), (1.0, 1.0), 0)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="6 samples a step cannot be shared out to rank 0 of 4"):
        step_numbers(0, 6, 0, 4)
