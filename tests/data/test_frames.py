from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics
from openvla.data.frames import Batches, Frames, split_episodes
from openvla.data.rlds import read_episodes, write_episodes
from openvla.errors import DataError
from openvla.train.fresh import fresh_checkpoint

UNIT = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 1.0, -1.0, -1.0, 1.0)))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return fresh_checkpoint("micro", "metaworld", 0).codec


def test_every_step_is_a_frame_and_chunks_end_with_the_episode(toy_data: Path) -> None:
    assert len(Frames(read_episodes(toy_data), "metaworld", UNIT)) == 12 * 8
    assert len(Frames(read_episodes(toy_data), "metaworld", UNIT, chunk=3)) == 12 * 6


def test_a_step_without_an_instruction_is_no_frame(toy_data: Path) -> None:
    first, second, *_ = read_episodes(toy_data)
    first.steps["language_instruction"][:] = ""
    second.steps["language_instruction"][2] = " "
    assert len(Frames([first, second], "metaworld", UNIT)) == 7


def test_every_so_many_th_episode_is_held_out(toy_data: Path) -> None:
    train, held_out = (list(part) for part in split_episodes(toy_data, hold_out=4))
    assert [episode.metadata["seed"] for episode in held_out] == [3, 7, 11]
    assert len(train) == 9


def test_a_validation_split_is_used_where_there_is_one(toy_data: Path, tmp_path: Path) -> None:
    episodes = list(read_episodes(toy_data))
    both = write_episodes(tmp_path / "both", {"train": episodes[:5], "val": episodes[5:]}, name="both")
    train, held_out = (list(part) for part in split_episodes(both, hold_out=4))
    assert (len(train), len(held_out)) == (5, 7)


def test_nothing_is_held_out_on_request(toy_data: Path) -> None:
    train, held_out = (list(part) for part in split_episodes(toy_data, hold_out=0))
    assert (len(train), len(held_out)) == (12, 0)


def test_an_epoch_shows_every_frame_once_and_the_next_in_another_order(toy_data: Path, codec: Codec) -> None:
    frames = Frames(read_episodes(toy_data), "metaworld", UNIT)
    batches = Batches(frames, codec, batch_size=8, seed=1)
    epoch = len(frames) // 8
    first = np.concatenate([batches[step]["pixel_values"].mean((1, 2, 3)) for step in range(epoch)])
    second = np.concatenate([batches[step]["pixel_values"].mean((1, 2, 3)) for step in range(epoch, 2 * epoch)])
    assert np.array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)


def test_a_batch_depends_on_its_step_alone(toy_data: Path, codec: Codec) -> None:
    frames = Frames(read_episodes(toy_data), "metaworld", UNIT)
    ours, theirs = Batches(frames, codec, 5, seed=1), Batches(frames, codec, 5, seed=1)
    for step in (30, 0, 19, 20):  # batch 19 spans two epochs
        for name, values in ours[step].items():
            assert np.array_equal(values, theirs[step][name])


def test_a_split_without_frames_is_refused(codec: Codec) -> None:
    with pytest.raises(DataError, match="there are no training frames"):
        Batches(Frames([], "metaworld", UNIT), codec, 4, seed=0)


def test_another_action_dimension_is_refused_naming_both(toy_data: Path) -> None:
    three = FieldStatistics(*(np.ones(3) for _ in range(6)))
    with pytest.raises(DataError, match="4 action dimensions, but the checkpoint 3; use data of the same robot"):
        Frames(read_episodes(toy_data), "metaworld", three)


def test_nan_in_an_action_is_refused_naming_episode_and_step(toy_data: Path) -> None:
    episode = next(read_episodes(toy_data))
    episode.steps["action"][5, 1] = np.nan
    with pytest.raises(DataError, match=r"record 0.*metaworld action.*5"):
        Frames([episode], "metaworld", UNIT)
