from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.conftest import plain_episodes

from openvla.codec.statistics import compute
from openvla.data.bad import BadData
from openvla.data.episode import Episode, build_episode
from openvla.data.index import build
from openvla.data.index.find import ensure_index, open_index
from openvla.data.index.index import Index
from openvla.data.index.statistics import index_statistics
from openvla.data.registry.find import find_record
from openvla.data.rlds import read_episodes, write_episodes
from openvla.data.standardize import standardize
from openvla.data.statistics import dataset_statistics
from openvla.data.tfds.tfrecord import read_records
from openvla.errors import DataError, UsageError
from openvla.files import cache_home

Flip = Callable[[Path, int], None]
NAMES = ("index.json", "rows.bin", "words.bin", "episodes.bin", "runs.bin")


def contents(index: Path) -> dict[str, bytes]:
    return {name: (index / name).read_bytes() for name in NAMES}


def files(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


def first_shard(data: Path) -> Path:
    return min(data.glob("*tfrecord*"))


@pytest.mark.parametrize("dataset", ["bridge_dataset", "metaworld"])
def test_the_index_holds_what_the_shards_hold(dataset: str, shards: Path, tmp_path: Path, request: Any) -> None:
    data = shards if dataset == "metaworld" else request.getfixturevalue("shared") / "data" / "bridge_dataset"
    index = ensure_index(data, dataset, tmp_path / "index").index
    row = 0
    for number, episode in enumerate(read_episodes(data, "all")):
        steps = standardize(dataset, episode.steps)
        assert index.episodes["row"][number] == row
        held = index.rows(row, row + len(steps["action"]))
        assert np.array_equal(held["action"], steps["action"])
        assert np.array_equal(held["proprio"], steps["proprio"])
        assert [index.words(int(place)) for place in held["words"]] == list(steps["language_instruction"])
        for view, key in enumerate(find_record(dataset).images.values()):
            for each, step in zip(held, steps["step"], strict=True):
                found = index.files.read(
                    index.path(each["shard"]), int(each["offset"][view]), int(each["length"][view])
                )
                assert found == episode.steps[key][step]
        assert index.source(row).startswith(episode.source)
        row += len(held)
    assert (row, len(index)) == (index.header.rows, number + 1)


def test_workers_and_shards_make_no_difference(shards: Path, tmp_path: Path) -> None:
    alone = ensure_index(shards, "metaworld", tmp_path / "a").index.directory
    together = ensure_index(shards, "metaworld", tmp_path / "b", workers=2).index.directory
    assert contents(alone) == contents(together)


def test_nothing_is_written_into_the_data_sets_folder(shards: Path) -> None:
    before = files(shards)
    index = ensure_index(shards, "metaworld").index
    assert files(shards) == before
    assert index.directory.is_relative_to(cache_home())


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENVLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_home() == Path("/x/openvla")


def test_an_index_is_made_once(shards: Path) -> None:
    assert ensure_index(shards, "metaworld").made
    assert not ensure_index(shards, "metaworld").made
    assert ensure_index(shards, "metaworld", again=True).made


def test_a_changed_shard_makes_the_index_stale_and_is_named(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    ensure_index(shards, "metaworld")
    os.utime(first_shard(shards), (0, 0))
    with pytest.raises(
        DataError, match=r"is stale: .*-00000-of-.* has changed \(time_ns was .*run `openvla data index"
    ):
        open_index(shards, "metaworld")
    assert "has changed" in (ensure_index(shards, "metaworld").why or "")
    assert "is stale" in caplog.text
    assert open_index(shards, "metaworld").header.episodes == 9


def test_a_changed_description_makes_the_index_stale(shards: Path) -> None:
    ensure_index(shards, "metaworld")
    path = shards / "features.json"
    path.write_text(path.read_text() + "\n")
    assert "description" in (ensure_index(shards, "metaworld").why or "")


def test_an_index_that_is_not_there_is_said(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere of .* does not exist; run `openvla data index"):
        open_index(shards, "metaworld", tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_torn_index_is_noticed_and_made_again(shards: Path, tmp_path: Path, name: str) -> None:
    place = ensure_index(shards, "metaworld", tmp_path / "index").index.directory
    whole = contents(place)
    (place / name).write_bytes(whole[name][:-3])
    with pytest.raises(DataError, match="run `openvla data index` again"):
        Index(place)
    assert ensure_index(shards, "metaworld", tmp_path / "index").made
    assert contents(place) == whole


def test_another_folder_is_never_overwritten(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something that is no index; choose another place"):
        ensure_index(shards, "metaworld", tmp_path)


def test_an_interrupted_scan_continues_where_it_was(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(ensure_index(shards, "metaworld", tmp_path / "whole").index.directory)
    scanned: list[int] = []
    scan = build.scan_shard

    def stop_at_two(job: Any, features: Any) -> Any:
        if len(scanned) == 2:
            raise KeyboardInterrupt
        scanned.append(job.shard)
        return scan(job, features)

    monkeypatch.setattr(build, "scan_shard", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        ensure_index(shards, "metaworld", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    monkeypatch.setattr(build, "scan_shard", lambda job, features: scanned.append(job.shard) or scan(job, features))
    ensure_index(shards, "metaworld", tmp_path / "index")
    assert sorted(scanned) == list(range(len(list(shards.glob("*tfrecord*")))))
    assert contents(tmp_path / "index") == whole
    assert not (tmp_path / "index.parts").exists()


SLOWLY = """
import sys, time
from openvla.data.index import build
from openvla.data.index.find import ensure_index
from pathlib import Path
scan = build.scan_shard
def slow(job, features):
    time.sleep(0.2)
    return scan(job, features)
build.scan_shard = slow
ensure_index(sys.argv[1], "metaworld", Path(sys.argv[2]))
"""


def test_a_killed_scan_continues_where_it_was(shards: Path, tmp_path: Path) -> None:
    whole = contents(ensure_index(shards, "metaworld", tmp_path / "whole").index.directory)
    command = [sys.executable, "-c", SLOWLY, str(shards), str(tmp_path / "index")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("index.parts/*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("index.parts/*.npz")}
    assert len(kept) >= 2
    assert not (tmp_path / "index").exists()
    ensure_index(shards, "metaworld", tmp_path / "index")
    assert contents(tmp_path / "index") == whole


def test_statistics_of_the_index_are_those_of_the_data(shards: Path, tmp_path: Path) -> None:
    index = ensure_index(shards, "metaworld", tmp_path / "index").index
    theirs = dataset_statistics(shards, "metaworld").to_dict()
    assert json.dumps(index_statistics(index, (True,) * 4).to_dict()) == json.dumps(theirs)


def test_an_unknown_data_set_is_refused(shards: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'metaword'; did you mean 'metaworld'"):
        ensure_index(shards, "metaword")


def test_a_record_of_the_users_own_is_indexed_and_an_edit_makes_it_stale(shards: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from openvla.data.registry.find import DATASETS\nimport dataclasses\n"
        "MINE = dataclasses.replace(DATASETS['metaworld'], name='mine')\n"
    )
    assert ensure_index(shards, f"{own}:MINE", workers=2).made
    assert not ensure_index(shards, f"{own}:MINE").made
    own.write_text(own.read_text() + "\n")
    assert ensure_index(shards, f"{own}:MINE").made


def cut(data: Path, flip: Flip) -> str:
    shard = first_shard(data)
    shard.write_bytes(shard.read_bytes()[:-10])
    return r"-00000-of-\d+: record 1 at byte \d+ is cut short"


def flip_payload(data: Path, flip: Flip) -> str:
    record = next(read_records(first_shard(data)))
    flip(first_shard(data), record.payload_offset + 100)
    return r"-00000-of-\d+: record 0 at byte 0 is damaged: the checksum of its content"


def flip_length(data: Path, flip: Flip) -> str:
    flip(first_shard(data), 3)
    return r"-00000-of-\d+: record 0 at byte 0 is damaged: the checksum of its length"


def lose(data: Path, flip: Flip) -> str:
    first_shard(data).unlink()
    return r"the shard .*-00000-of-\d+ is missing; fetch it"


def miscount(data: Path, flip: Flip) -> str:
    path = data / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"][0] = "3"
    path.write_text(json.dumps(info))
    return r"-00000-of-\d+ holds 2 instead of the 3 episodes that dataset_info.json says"


def miscount_the_other_way(data: Path, flip: Flip) -> str:
    path = data / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"][0] = "1"
    path.write_text(json.dumps(info))
    return r"-00000-of-\d+ holds more than the 1 episodes"


@pytest.mark.parametrize("damage", [cut, flip_payload, flip_length, lose, miscount, miscount_the_other_way])
def test_damaged_shards_stop_the_index_or_are_left_out_and_listed(
    shards: Path, tmp_path: Path, flip: Flip, damage: Callable[[Path, Flip], str]
) -> None:
    sentence = damage(shards, flip)
    with pytest.raises(DataError, match=sentence):
        ensure_index(shards, "metaworld", tmp_path / "index", workers=2)
    assert not (tmp_path / "index").exists()
    bad = BadData("skip")
    index = ensure_index(shards, "metaworld", tmp_path / "index", bad=bad).index
    assert re.search(sentence, bad.skipped[0])
    assert 7 <= len(index) <= 9
    assert index.rows(0, index.header.rows)["action"][:, 0].astype(int).tolist() == [
        seed for seed in kept_seeds(index) for _ in range(5)
    ]
    again = BadData("skip")
    assert not ensure_index(shards, "metaworld", tmp_path / "index", bad=again).made
    assert again.skipped == bad.skipped
    with pytest.raises(DataError, match=sentence):
        ensure_index(shards, "metaworld", tmp_path / "index")


def kept_seeds(index: Index) -> list[int]:
    return [int(seed) for seed in index.rows(0, index.header.rows)["action"][::5, 0]]


def with_actions(value: float) -> Episode:
    bad = next(plain_episodes(1))
    actions = bad.steps["action"].copy()
    actions[3, 1] = value
    return Episode({**bad.steps, "action": actions}, bad.metadata, "x", bad.features)


def with_image(image: bytes, step: int = 2) -> Episode:
    bad = next(plain_episodes(1))
    images = bad.steps["observation|image"].copy()
    images[step] = image
    return Episode({**bad.steps, "observation|image": images}, bad.metadata, "x", bad.features)


def larger() -> bytes:
    return next(plain_episodes(1, size=24)).steps["observation|image"][0]


def empty() -> Episode:
    bad = next(plain_episodes(1))
    return Episode({name: values[:0] for name, values in bad.steps.items()}, bad.metadata, "x", bad.features)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda: with_actions(np.nan), r"record 2 at byte \d+: metaworld action at step 3 is .*not finite"),
        (lambda: with_actions(np.inf), r"record 2 at byte \d+: metaworld action at step 3 is .*not finite"),
        (
            lambda: with_image(b"\xff\xd8\xff\x00"),
            r"record 2 .* image 'observation\|image' at step 2, byte \d+, is a dam",
        ),
        (lambda: with_image(b""), r"record 2 .* at step 2, byte \d+, is an empty string"),
        (lambda: with_image(b"GIF89a.."), r"record 2 .* at step 2, byte \d+, starts with the bytes 47 49 46 38"),
        (lambda: with_image(larger()), r"record 2 .* step 2, byte \d+, is 24x24 pixels where 16x16 are promised"),
        (empty, r"record 2 at byte \d+ is an episode without steps"),
    ],
)
def test_bad_episodes_stop_the_index_or_are_left_out_and_listed(
    tmp_path: Path, bad: Callable[[], Episode], sentence: str
) -> None:
    good = list(plain_episodes(3))
    data = write_episodes(tmp_path / "d", [*good[:2], bad(), good[2]], name="d", features=good[0].features)
    with pytest.raises(DataError, match=sentence):
        ensure_index(data, "metaworld", tmp_path / "index")
    account = BadData("skip")
    index = ensure_index(data, "metaworld", tmp_path / "index", bad=account).index
    assert len(account.skipped) == 1
    assert re.search(sentence, account.skipped[0])
    assert kept_seeds(index) == [0, 1, 2]
    assert index.episodes["number"].tolist() == [0, 1, 3]


def test_a_feature_that_the_record_names_but_the_data_lacks_is_named(tmp_path: Path) -> None:
    steps = {"action": np.ones((3, 4)), "observation|proprio": np.ones((3, 2)), "language_instruction": ["go"] * 3}
    data = write_episodes(tmp_path / "d", [build_episode(steps)], name="d")
    with pytest.raises(DataError, match=r"record 0 at byte 0: unknown image 'observation\|image'; known are none"):
        ensure_index(data, "metaworld", tmp_path / "index")
    del steps["observation|proprio"]
    data = write_episodes(tmp_path / "e", [build_episode(steps)], name="e")
    with pytest.raises(DataError, match=r"record 0 at byte 0: .*they lack 'observation\|proprio'"):
        ensure_index(data, "metaworld", tmp_path / "index")


def test_statistics_leave_out_what_was_left_out(tmp_path: Path) -> None:
    good = list(plain_episodes(3))
    data = write_episodes(tmp_path / "d", [*good, with_actions(np.nan)], name="d", features=good[0].features)
    index = ensure_index(data, "metaworld", tmp_path / "index", bad=BadData("skip")).index
    ours = index_statistics(index)
    theirs = compute((episode.steps["action"], episode.steps["observation|proprio"]) for episode in good)
    assert np.array_equal(ours.action.q99, theirs.action.q99)
    assert ours.num_trajectories == 3
