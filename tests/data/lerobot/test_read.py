from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openvla.data.bad import BadData
from openvla.data.formats.lazy import LazyImages
from openvla.data.images.pixels import encode_image
from openvla.data.lerobot.read import LeRobotSource
from openvla.data.lerobot.video_write import VideoWriter
from openvla.data.rlds import read_episodes
from openvla.errors import DataError


@pytest.fixture
def copied(shared: Path, tmp_path: Path):
    def copy(kind: str) -> Path:
        return Path(shutil.copytree(shared / "data" / f"lerobot_v3_{kind}", tmp_path / kind))

    return copy


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    """Two episodes of four steps in the layout of v2.1: a video, a camera in parquet, a state, two tasks."""
    root = tmp_path / "old"
    numeric = {"dtype": "float32", "shape": [2], "names": None}
    counter = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        "observation.images.front": {"dtype": "video", "shape": [3, 64, 64], "names": ["channels", "height", "width"]},
        "observation.images.wrist": {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channel"]},
        "observation.state": numeric,
        "action": numeric,
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), counter),
    }
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "total_episodes": 2,
        "chunks_size": 1000,
        "splits": {"train": "0:2"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tasks = [{"task_index": n, "task": f"do {n}"} for n in range(2)]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    rows = [{"episode_index": n, "tasks": [f"do {n}"], "length": 4} for n in range(2)]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "data" / "chunk-000").mkdir(parents=True)
    for episode in range(2):
        film = root / f"videos/chunk-000/observation.images.front/episode_{episode:06d}.mp4"
        writer = VideoWriter(film, 10, 64, 64)
        for step in range(4):
            writer.add(np.full((64, 64, 3), 40 * step + 20 * episode, np.uint8))
        writer.close()
        wrist = encode_image(np.full((16, 16, 3), episode, np.uint8), "png", "wrist")
        table = {
            "observation.images.wrist": [{"bytes": wrist, "path": "x"}] * 4,
            "observation.state": [[float(episode), float(step)] for step in range(4)],
            "action": [[float(step), -1.0] for step in range(4)],
            "timestamp": [step / 10 for step in range(4)],
            "frame_index": list(range(4)),
            "episode_index": [episode] * 4,
            "index": [4 * episode + step for step in range(4)],
            "task_index": [episode] * 4,
        }
        pq.write_table(pa.table(table), root / f"data/chunk-000/episode_{episode:06d}.parquet")
    return root


def test_images_in_parquet_are_those_of_the_episodes_they_were_made_of(shared):
    rlds = {e.steps["action"].tobytes(): e for e in read_episodes(shared / "data" / "bridge_dataset")}
    episodes = list(LeRobotSource(shared / "data" / "lerobot_v3_image").episodes())
    assert [len(episode) for episode in episodes] == [10] * 4
    for episode in episodes:
        other = rlds[episode.steps["action"].tobytes()]
        assert np.array_equal(episode.steps["observation|state"], other.steps["observation|state"])
        told = other.steps["language_instruction"][0]
        assert episode.steps["language_instruction"][0] == (told.decode() if isinstance(told, bytes) else told)
        difference = episode.image("observation|image_0", 4).astype(int) - other.image("observation|image_0", 4)
        assert np.abs(difference).mean() < 2.5  # two decoders of one JPEG


def test_frames_of_a_video_are_found_in_any_order(shared):
    film = next(LeRobotSource(shared / "data" / "lerobot_v3_video").episodes("train[2:3]"))
    stills = next(LeRobotSource(shared / "data" / "lerobot_v3_image").episodes("train[2:3]"))
    images = film.steps["observation|image_0"]
    assert isinstance(images, LazyImages)
    for step in (9, 0, 5, 4, 4):
        seen = film.image("observation|image_0", step).astype(int)
        errors = [np.abs(seen - still).mean() for still in stills.images("observation|image_0")]
        assert errors[step] < 8
    assert images[3].startswith(b"\x89PNG")
    assert len(images[2:5]) == 3
    assert np.array_equal(images[np.array([7, 1])].pixels(1), film.image("observation|image_0", 1))


def test_version_2_1_is_read_too(version_2):
    source = LeRobotSource(version_2)
    first, second = source.episodes()
    assert source.control_hz == 10
    assert second.steps["language_instruction"].tolist() == ["do 1"] * 4
    assert second.steps["observation|state"].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert second.image("observation|wrist", 0).max() == 1
    assert abs(int(first.image("observation|front", 3).mean()) - 120) < 5
    assert second.image("observation|front", 0).shape == (64, 64, 3)


def test_sub_splits_count_episodes(shared):
    source = LeRobotSource(shared / "data" / "lerobot_v3_image")
    assert [e.metadata["episode_index"] for e in source.episodes("train[1:3]")] == [1, 2]


def test_another_version_is_refused(copied):
    path = copied("image") / "meta" / "info.json"
    path.write_text(path.read_text().replace('"v3.0"', '"v1.6"'))
    with pytest.raises(DataError, match=r"version 'v1.6'; readable are v3.x, v2.1 and v2.0"):
        LeRobotSource(path.parent.parent)


@pytest.mark.parametrize("content", ["[]", "{", '{"codebase_version": "v3.0"}'])
def test_a_damaged_description_is_one_sentence(copied, content):
    root = copied("image")
    (root / "meta" / "info.json").write_text(content)
    with pytest.raises(DataError, match=r"info\.json (holds a list|is not JSON|does not describe a LeRobot)"):
        LeRobotSource(root)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("data/chunk-000/file-000.parquet", r"file-000\.parquet is missing"),
        ("meta/tasks.parquet", r"tasks\.parquet is missing"),
        ("meta/episodes/chunk-000/file-000.parquet", "the table of episodes"),
        ("videos/observation.images.image_0/chunk-000/file-000.mp4", "the video of .* is missing"),
    ],
)
def test_a_missing_file_is_named(copied, file, words):
    root = copied("video")
    (root / file).unlink()
    with pytest.raises(DataError, match=words):
        list(LeRobotSource(root).episodes())


@pytest.mark.parametrize(
    "file", ["data/chunk-000/file-000.parquet", "videos/observation.images.image_0/chunk-000/file-000.mp4"]
)
def test_a_file_cut_short_is_named(copied, file):
    root = copied("video")
    (root / file).write_bytes((root / file).read_bytes()[:700])
    with pytest.raises(DataError, match=r"is no readable (parquet file|video)"):
        list(LeRobotSource(root).episodes())


def test_a_video_shorter_than_its_metadata_is_refused_or_skipped(copied):
    root = copied("video")
    path = root / "videos/observation.images.image_0/chunk-000/file-000.mp4"
    path.unlink()
    writer = VideoWriter(path, 5, 64, 64)
    for _ in range(25):
        writer.add(np.zeros((64, 64, 3), np.uint8))
    writer.close()
    with pytest.raises(DataError, match=r"episode 2: .*file-000\.mp4 is 5\.000 s long, the metadata needs 6\.000 s"):
        list(LeRobotSource(root).episodes())
    bad = BadData("skip")
    assert len(list(LeRobotSource(root).episodes("train", bad))) == 2
    assert len(bad.skipped) == 2


def rewritten(root: Path, change) -> LeRobotSource:
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    return LeRobotSource(root)


def test_a_missing_column_is_named(copied):
    source = rewritten(copied("image"), lambda table: table.drop_columns(["action"]))
    with pytest.raises(DataError, match="episode 0 lacks the column 'action'; it has"):
        next(source.episodes())


def test_ragged_actions_name_the_step(copied):
    def shorten(table):
        rows = table.column("action").to_pylist()
        rows[13] = rows[13][:5]
        return table.set_column(table.column_names.index("action"), "action", pa.array(rows))

    source = rewritten(copied("image"), shorten)
    assert len(next(source.episodes())) == 10
    with pytest.raises(DataError, match="episode 1: 'action' has 5 values at step 3 where its description says 7"):
        list(source.episodes())


def test_missing_rows_are_counted(copied):
    source = rewritten(copied("image"), lambda table: table.slice(0, 35))
    with pytest.raises(DataError, match="episode 3 has 5 steps there, the metadata says 10"):
        list(source.episodes())


def test_an_unknown_task_names_the_step(copied):
    def renumber(table):
        return table.set_column(table.column_names.index("task_index"), "task_index", pa.array([9] * 40))

    with pytest.raises(DataError, match="the task 9 at step 0 is not among the 3 tasks"):
        next(rewritten(copied("image"), renumber).episodes())
