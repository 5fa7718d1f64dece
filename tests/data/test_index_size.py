"""The sizes that the index is made for: a million episodes, and samples by the hundred thousand."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.statistics import FieldStatistics
from openvla.data.index.index import HEADER, Header, Index
from openvla.data.index.place import Origin
from openvla.data.index.scan import EPISODE, RUN, row_dtype
from openvla.data.loading.bench import resident_bytes
from openvla.data.loading.frames import Frames
from openvla.data.loading.sampler import Sampler, step_numbers

UNIT = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 1.0, -1.0, -1.0, 1.0)))


def synthetic_index(place: Path, episodes: int, shards: int = 1000) -> Path:
    """The index of a data set of `episodes` episodes of 10 to 89 steps that does not exist; its rows are zeros."""
    place.mkdir()
    lengths = np.random.default_rng(0).integers(10, 90, episodes)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    table = np.zeros(episodes, EPISODE)
    table["row"], table["number"] = starts[:-1], np.arange(episodes)
    table["shard"] = np.arange(episodes) * shards // episodes
    runs = np.zeros(episodes, RUN)
    runs["start"], runs["stop"], runs["episode"] = starts[:-1], starts[1:], np.arange(episodes)
    table.tofile(place / "episodes.bin")
    runs.tofile(place / "runs.bin")
    (place / "words.bin").write_bytes(b"\2\0\0\0go")
    with (place / "rows.bin").open("wb") as file:
        file.truncate(int(starts[-1]) * row_dtype(1, 4, 3).itemsize)  # a hole: no byte on the disk
    held = [
        {"file": f"x-train.tfrecord-{n:05d}-of-{shards:05d}", "split": "train", "episodes": 1, "bytes": 1, "time_ns": 0}
        for n in range(shards)
    ]
    origin = Origin("metaworld", "synthetic", tuple(held))
    header = Header("/nowhere", "x", ("primary",), 4, 3, episodes, episodes, int(starts[-1]), 6, (), origin)
    (place / HEADER).write_text(header.to_json())
    return place


def test_a_large_index_opens_and_samples_quickly(tmp_path: Path) -> None:
    place = synthetic_index(tmp_path / "index", 1_000_000)
    before, start = resident_bytes(), time.process_time()
    index = Index(place)
    frames = Frames(index, np.ones(len(index), bool), UNIT)
    opened = time.process_time() - start
    assert opened < 3
    assert len(frames) > 40_000_000
    sampler = Sampler((len(frames),), (1.0,), 0)
    start = time.process_time()
    for step in range(100):
        frames.rows(sampler.draw(step_numbers(step, 1024))[1])
    assert 100 * 1024 / (time.process_time() - start) > 50_000
    assert resident_bytes() - before < 300e6


def test_the_last_frame_of_a_large_index_is_found(tmp_path: Path) -> None:
    index = Index(synthetic_index(tmp_path / "index", 100_000))
    frames = Frames(index, np.ones(len(index), bool), UNIT)
    assert int(frames.rows(len(frames) - 1)) == index.header.rows - 1
    half = np.zeros(len(index), bool)
    half[50_000:] = True
    assert int(Frames(index, half, UNIT).rows(0)) == index.episodes["row"][50_000]


@pytest.mark.slow
def test_two_hundred_thousand_samples_leave_memory_where_it_was(tmp_path: Path) -> None:
    index = Index(synthetic_index(tmp_path / "index", 1_000_000, shards=400))
    for number in range(400):
        path = tmp_path / f"x-train.tfrecord-{number:05d}-of-00400"
        path.write_bytes(os.urandom(1000))
    index._paths[:] = [str(tmp_path / Path(path).name) for path in index._paths]
    frames = Frames(index, np.ones(len(index), bool), UNIT)
    sampler = Sampler((len(frames),), (1.0,), 0)

    def draw(first: int, last: int) -> None:
        for step in range(first, last):
            for row in frames.rows(sampler.draw(step_numbers(step, 100))[1]).tolist():
                frames.read(row)

    draw(0, 50)
    before = resident_bytes()
    draw(50, 2050)
    assert resident_bytes() - before < 50e6
