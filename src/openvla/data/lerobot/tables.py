"""The tables in `meta/` of a LeRobot data set: its tasks, and where each episode's rows and video frames lie.

v3.0 has parquet tables, v2.1 JSON lines. The column of `meta/tasks.parquet` that holds the words is called `task` or,
where pandas stored it as an index, `__index_level_0__`.

Source: LeRobotDataset v3.0 and v2.1, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvla.data.lerobot.info import FETCH, LeRobotInfo
from openvla.data.lerobot.parquet import read_table
from openvla.errors import DataError

METADATA = "openvla/metadata"
"""The column in which this package keeps what an episode carries besides its steps, as one `tf.train.Example`."""


@dataclass(frozen=True)
class EpisodeRow:
    """Where one episode lies. videos: camera -> (file, start in seconds); metadata: stored, or None."""

    episode: int
    length: int
    data: Path
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict[str, "tuple[Path, float]"])
    metadata: bytes | None = None


def tasks(info: LeRobotInfo) -> dict[int, str]:
    """Task number -> words. Raises DataError."""
    if info.version[0] < 3:
        return {int(row["task_index"]): str(row["task"]) for row in _lines(info.root / "meta" / "tasks.jsonl")}
    path = info.root / "meta" / "tasks.parquet"
    table = read_table(path)
    words = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not words:
        raise DataError(f"{path} has the columns {table.column_names}; it needs task_index and the task; {FETCH}")
    name = "task" if "task" in words else words[0]
    return dict(zip(table.column("task_index").to_pylist(), map(str, table.column(name).to_pylist()), strict=True))


def episode_rows(info: LeRobotInfo) -> dict[int, EpisodeRow]:
    """Episode number -> where it lies. Raises DataError for tables that are missing or incomplete."""
    if info.version[0] < 3:
        path = info.root / "meta" / "episodes.jsonl"
        return {row.episode: row for row in (_row_v2(info, raw, path) for raw in _lines(path))}
    return {row.episode: row for row in _rows_v3(info)}


def _rows_v3(info: LeRobotInfo) -> Iterator[EpisodeRow]:
    folder = info.root / "meta" / "episodes"
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DataError(f"{folder} holds no chunk-*/file-*.parquet, the table of episodes; fetch the data set again")
    cameras = [name for name, feature in info.features.items() if feature.kind == "video"]
    places = [f"videos/{name}/{key}" for name in cameras for key in ("chunk_index", "file_index", "from_timestamp")]
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index", METADATA, *places]
    for path in paths:
        for raw in read_table(path, wanted).to_pylist():
            lacking = [name for name in wanted if name != METADATA and raw.get(name) is None]
            if lacking:
                raise DataError(f"{path} lacks {', '.join(lacking)}; fetch the data set again")
            yield _row_v3(info, raw, cameras)


def _row_v3(info: LeRobotInfo, raw: dict[str, Any], cameras: list[str]) -> EpisodeRow:
    data = _place(info, info.data_path, chunk_index=raw["data/chunk_index"], file_index=raw["data/file_index"])
    videos: dict[str, tuple[Path, float]] = {}
    for name in cameras:
        numbers = {key: raw[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
        place = _place(info, info.video_path, video_key=name, **numbers)
        videos[name] = place, float(raw[f"videos/{name}/from_timestamp"])
    return EpisodeRow(raw["episode_index"], raw["length"], data, videos, raw.get(METADATA))


def _row_v2(info: LeRobotInfo, raw: dict[str, Any], path: Path) -> EpisodeRow:
    try:
        episode, length = int(raw["episode_index"]), int(raw["length"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} has a line without episode_index and length: {raw}; {FETCH}") from error
    where = {"episode_chunk": episode // info.chunk_size, "episode_index": episode}
    videos = {
        name: (_place(info, info.video_path, video_key=name, **where), 0.0)
        for name, feature in info.features.items()
        if feature.kind == "video"
    }
    return EpisodeRow(episode, length, _place(info, info.data_path, **where), videos)


def _place(info: LeRobotInfo, template: str, **values: Any) -> Path:
    try:
        path = Path(template.format(**values))
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{info.root} places its files at {template!r}, which lacks values: {error}; {FETCH}"
        ) from error
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{info.root} places a file at {str(path)!r}, outside of its directory; {FETCH}")
    return info.root / path


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines. Raises DataError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {FETCH}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                raw = json.loads(line)
                if not isinstance(raw, dict):
                    raise ValueError("it is no object")
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}; {FETCH}") from error
            yield raw
