from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.data.conftest import plain_episodes

from openvla.codec.statistics import FieldStatistics, normalize
from openvla.data.episode import Episode
from openvla.data.index.find import ensure_index
from openvla.data.index.index import Index
from openvla.data.loading.frames import Frames, split_mask, split_masks
from openvla.data.registry.find import find_record
from openvla.data.rlds import read_episodes, write_episodes
from openvla.errors import DataError, UsageError

UNIT = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 1.0, -1.0, -1.0, 1.0)))


def index_of(data: Path) -> Index:
    return ensure_index(data, "metaworld").index


def frames_of(data: Path, chunk: int = 1, split: str = "train") -> Frames:
    index = index_of(data)
    return Frames(index, split_mask(index, split), UNIT, chunk)


def written(place: Path, episodes: Sequence[Episode]) -> Path:
    return write_episodes(place, episodes, name="toy")


def test_every_step_is_a_frame_and_chunks_end_with_the_episode(toy_data: Path) -> None:
    assert len(frames_of(toy_data)) == 12 * 8
    assert len(frames_of(toy_data, chunk=3)) == 12 * 6
    assert len(frames_of(toy_data, chunk=9)) == 0


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_frame_is_the_image_the_words_and_the_actions_of_its_step(shards: Path, chunk: int) -> None:
    frames = frames_of(shards, chunk)
    number = 0
    for episode in read_episodes(shards):
        for step in range(len(episode) - chunk + 1):
            row = int(frames.rows(number))
            frame = frames.read(row)
            assert frame.image == episode.steps["observation|image"][step]
            assert frame.words == episode.steps["language_instruction"][step]
            wanted = normalize(episode.steps["action"][step : step + chunk], UNIT)
            assert np.array_equal(frame.actions, wanted)
            pixels = frames.image(frame.image, row)
            assert np.array_equal(pixels, episode.image("observation|image", step))
            number += 1
    assert number == len(frames)


def test_a_step_without_an_instruction_is_no_frame(toy_data: Path, tmp_path: Path) -> None:
    first, second, *_ = read_episodes(toy_data)
    first.steps["language_instruction"][:] = ""
    second.steps["language_instruction"][2] = " "
    assert len(frames_of(written(tmp_path / "d", [first, second]))) == 7


def test_every_so_many_th_episode_is_held_out(toy_data: Path) -> None:
    index = index_of(toy_data)
    train, held_out = split_masks(index, hold_out=4)
    assert np.flatnonzero(held_out).tolist() == [3, 7, 11]
    assert np.array_equal(train, ~held_out)


def test_a_validation_split_is_used_where_there_is_one(toy_data: Path, tmp_path: Path) -> None:
    episodes = list(read_episodes(toy_data))
    both = write_episodes(tmp_path / "both", {"train": episodes[:5], "val": episodes[5:]}, name="both")
    train, held_out = split_masks(index_of(both), hold_out=4)
    assert (train.sum(), held_out.sum()) == (5, 7)


def test_nothing_is_held_out_on_request(toy_data: Path) -> None:
    train, held_out = split_masks(index_of(toy_data), hold_out=0)
    assert (train.sum(), held_out.sum()) == (12, 0)


@pytest.mark.parametrize("split", ["train[:95%]", "train[2:5]", "train[-3:]", "all", "train[:1]+train[8:]"])
def test_sub_splits_are_those_of_the_reader(shards: Path, split: str) -> None:
    frames = frames_of(shards, split=split)
    seeds = [frames.index.rows(int(row), int(row) + 1)["action"][0, 0] for row in frames.rows(np.arange(len(frames)))]
    wanted = [value for episode in read_episodes(shards, split) for value in episode.steps["action"][:, 0]]
    assert seeds == wanted


def test_frames_that_the_record_leaves_out_are_no_frames(shards: Path) -> None:
    record = dataclasses.replace(find_record("metaworld"), keep_frames=lambda actions: actions[:, 0, 1] > 0)
    index = index_of(shards)
    frames = Frames(index, split_mask(index, "train"), UNIT, chunk=2, record=record)
    kept = [
        (episode.steps["action"][step, 0])
        for episode in read_episodes(shards)
        for step in range(4)
        if episode.steps["action"][step, 1] > 0
    ]
    rows = frames.rows(np.arange(len(frames)))
    assert [index.rows(int(row), int(row) + 1)["action"][0, 0] for row in rows] == kept


def test_another_action_dimension_is_refused_naming_both(toy_data: Path) -> None:
    three = FieldStatistics(*(np.ones(3) for _ in range(6)))
    index = index_of(toy_data)
    with pytest.raises(DataError, match="4 action dimensions, but the checkpoint 3; use data of the same robot"):
        Frames(index, split_mask(index, "train"), three)


def test_a_view_that_the_record_lacks_is_refused(toy_data: Path) -> None:
    index = index_of(toy_data)
    with pytest.raises(UsageError, match="unknown view of 'metaworld' 'wrist'; known are primary"):
        Frames(index, split_mask(index, "train"), UNIT, view="wrist")


def test_a_record_without_a_primary_camera_says_what_to_do(toy_data: Path) -> None:
    wrist = dataclasses.replace(find_record("metaworld"), images={"wrist": "observation|image"}, name="arm")
    index = ensure_index(toy_data, wrist).index
    with pytest.raises(UsageError, match="'arm' has no primary camera, only wrist; train on another data set, or"):
        Frames(index, split_mask(index, "train"), UNIT, record=wrist)


def test_a_byte_that_flips_after_indexing_names_file_episode_step_and_byte(
    shards: Path, flip: Callable[[Path, int], None]
) -> None:
    frames = frames_of(shards)
    row = int(frames.rows(6))
    held = frames.index.rows(row, row + 1)[0]
    offset = int(held["offset"][0])
    flip(Path(frames.index.path(held["shard"])), offset + 50)
    with pytest.raises(
        DataError, match=rf"-00000-of-\d+: record 1 at byte \d+, step 1: the image at byte {offset} is damaged"
    ):
        frames.read(row)


def test_a_shard_that_shrank_after_indexing_is_named(shards: Path) -> None:
    frames = frames_of(shards)
    path = Path(frames.index.path(0))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"-00000-of-\d+ ends before byte \d+; it is shorter than when it was indexed"):
        frames.read(int(frames.rows(6)))


def test_an_image_that_does_not_decode_names_file_episode_step_and_byte(tmp_path: Path) -> None:
    good = next(plain_episodes(1))
    images = good.steps["observation|image"].copy()
    images[2] = images[2][:-8]  # the header is whole
    bad = Episode({**good.steps, "observation|image": images}, good.metadata, "x", good.features)
    frames = frames_of(written(tmp_path / "d", [bad]))
    row = int(frames.rows(2))
    with pytest.raises(DataError, match=r"record 0 at byte 0, step 2: at byte \d+: the image is a damaged JPEG"):
        frames.image(frames.read(row).image, row)
