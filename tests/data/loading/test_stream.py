from __future__ import annotations

import dataclasses
import functools
import http.server
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from openvla.codec.statistics import FieldStatistics
from openvla.data.bad import BadData
from openvla.data.loading.frames import Frame
from openvla.data.loading.stream import Position, Stream
from openvla.data.rlds import read_episodes
from openvla.errors import DataError, InputError

WIDE = FieldStatistics(*(np.full(4, value) for value in (0.0, 1.0, 20.0, -20.0, -20.0, 20.0)))


def stream(url: object, **options: Any) -> Stream:
    return Stream(str(url), "metaworld", WIDE, **{"window": 12, **options})


def names(frames: Iterator[Frame] | list[Frame]) -> list[float]:
    """What tells frames apart: the first action value, which is normalised by 20."""
    return [round(float(frame.actions[0, 0]) * 20, 2) for frame in frames]


def everything(shards: Path) -> list[float]:
    return sorted(round(float(v), 2) for e in read_episodes(shards) for v in e.steps["action"][:, 0])


@pytest.fixture
def remote(shards: Path) -> str:
    """The shards in a file system that is not this machine's."""
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe_file(f"/{shards.parent.name}-{id(shards)}/{path.name}", path.read_bytes())
    return f"memory://{shards.parent.name}-{id(shards)}"


def test_a_round_gives_every_frame_once_and_the_next_in_another_order(shards: Path) -> None:
    frames = names(islice(stream(shards), 90))
    assert sorted(frames[:45]) == sorted(frames[45:]) == everything(shards)
    assert frames[:45] != frames[45:]
    assert frames[:45] != everything(shards)


@pytest.mark.parametrize("start", [0, 1, 11, 12, 13, 40, 45, 46, 80])
def test_a_stream_goes_on_with_the_very_next_frame_at_any_place(shards: Path, start: int) -> None:
    straight = names(islice(stream(shards), 95))
    first = stream(shards)
    names(islice(first, start))
    state = [int(value) for value in dataclasses.astuple(first.position)]
    assert names(islice(stream(shards, position=Position(*state)), 95 - start)) == straight[start:]


def test_what_is_held_is_bounded_by_the_window(shards: Path) -> None:
    reader = stream(shards, window=7)
    for _ in range(20):
        window, after = reader._fill(reader.position)
        assert 1 <= len(window) <= 7
        reader.position = after


def test_ranks_share_the_shards(shards: Path) -> None:
    total = len(list(shards.glob("*tfrecord*")))
    halves = [stream(shards, rank=rank, world=2) for rank in range(2)]
    assert {len(half._shards) for half in halves} == {total // 2, total - total // 2}
    with pytest.raises(DataError, match=rf"has {total} shards of 'train' for 99 ranks, so rank 98 has none"):
        stream(shards, rank=98, world=99)


def test_chunks_and_sub_splits_are_those_of_the_index(shards: Path) -> None:
    assert len(set(names(islice(stream(shards, chunk=3), 27)))) == 27
    part = stream(shards, split="train[2:4]")
    assert {int(name) for name in names(islice(part, 30))} == {2, 3}


def test_remote_storage_gives_the_same_frames(shards: Path, remote: str) -> None:
    local = names(islice(stream(shards), 50))
    assert names(islice(stream(remote), 50)) == local
    assert names(islice(stream(f"file://{shards}"), 50)) == local


def test_http_gives_the_same_frames(shards: Path) -> None:
    pytest.importorskip("aiohttp", reason="HTTP needs fsspec[http]")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            del args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert names(islice(stream(url), 20)) == names(islice(stream(shards), 20))
    finally:
        server.shutdown()
        server.server_close()


def test_a_damaged_record_stops_the_stream_or_is_left_out_and_listed(shards: Path, flip: Any) -> None:
    flip(min(shards.glob("*tfrecord*")), 300)
    with pytest.raises(DataError, match=r"record 0 at byte 0 is damaged"):
        names(islice(stream(shards), 45))
    bad = BadData("skip")
    assert len(set(names(islice(stream(shards, bad=bad), 40)))) == 40
    assert len(bad.skipped) >= 1


def test_a_missing_shard_stops_the_stream(shards: Path) -> None:
    min(shards.glob("*tfrecord*")).unlink()
    with pytest.raises(DataError, match=r"cannot read .*-00000-of-"):
        names(islice(stream(shards), 45))


def test_a_place_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*dataset_info\.json.*the URL of an RLDS data set's version dir"):
        stream(tmp_path)


def test_a_window_holds_at_least_a_frame(shards: Path) -> None:
    with pytest.raises(InputError, match="the window is 0 frames"):
        stream(shards, window=0)
