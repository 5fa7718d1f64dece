"""A LeRobot v3.0 data set on disk, written part by part so that an interrupted conversion goes on at the last part.

    meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet, videos/<camera>/chunk-000/file-000.mp4, meta/openvla.json

A part is one file of each kind with the same number; it ends where the data exceed `part_megabytes` or a video twice
that. One row group per episode.

Source: LeRobotDataset v3.0, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openvla.data.episode import Episode
from openvla.data.lerobot import stats
from openvla.data.lerobot.columns import TIMESTAMP, Column, instruction_key, plan
from openvla.data.lerobot.finish import write_meta
from openvla.data.lerobot.tables import METADATA
from openvla.data.lerobot.video_write import VideoWriter
from openvla.data.tfds.example import serialize_example
from openvla.data.tfds.fields import encode_leaf
from openvla.errors import DataError, require

CHUNK = 1000
MEGABYTE = 1_000_000
TIME_TOLERANCE = 1e-3
"""Seconds by which a recorded timestamp may differ from step / fps."""


@dataclass
class _State:
    """What has been written so far, over all parts."""

    parts: int = 0
    episodes: int = 0
    frames: int = 0
    tasks: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class _Part:
    """The files that are open, and the rows of the table of episodes so far."""

    data: Any
    data_path: Path
    videos: dict[str, VideoWriter]
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class LeRobotWriter:
    """Writes episodes below `place`, a directory of its own."""

    def __init__(self, place: Path, first: Episode, *, name: str, fps: int, video: bool, part_megabytes: float) -> None:
        """first: an episode like all others. Raises DataError for features that LeRobot cannot hold."""
        self.place, self.features, self.name, self.fps = place, first.features, name, fps
        self.columns = plan(first, video)
        self._said = instruction_key(first.features.steps)
        self._limit = part_megabytes * MEGABYTE
        self._state = _State()
        self._part: _Part | None = None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the part that `commit` described so."""
        self._state = _State(**state)

    def add(self, episode: Episode, split: str) -> None:
        """Append one episode; those of a split follow each other. Raises DataError where it does not fit."""
        del split
        if episode.features.steps.keys() != self.features.steps.keys():
            differ = ", ".join(repr(n) for n in episode.features.steps.keys() ^ self.features.steps.keys())
            raise DataError(f"{episode.source} and the data set's description differ in {differ}; record all alike")
        count = len(episode)
        self._check_times(episode)
        columns = {column.name: self._cells(episode, column) for column in self.columns if column.ours}
        if self._part is None:
            self._part = self._open()
        part, state = self._part, self._state
        row: dict[str, Any] = {
            "episode_index": state.episodes,
            "tasks": list(dict.fromkeys(self._words(episode))),
            "length": count,
            **self._numbers("data"),
            "dataset_from_index": state.frames,
            "dataset_to_index": state.frames + count,
        }
        columns |= self._counters(episode)
        statistics = {c.name: self._statistics(episode, c, columns) for c in self.columns if c.kind != "string"}
        for name, writer in part.videos.items():
            row |= self._film(episode, name, writer)
        pa: Any = require("pyarrow", "data")
        schema = part.data.schema
        arrays = [pa.array(columns[each.name], each.type) for each in schema]
        part.data.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=max(count, 1))
        row |= {f"stats/{n}/{key}": values[key].tolist() for n, values in statistics.items() for key in values}
        row |= self._numbers("meta/episodes")
        row[METADATA] = self._metadata(episode)
        part.rows.append(row)
        state.episodes += 1
        state.frames += count

    @property
    def full(self) -> bool:
        """Whether the open part has reached its size."""
        part = self._part
        if part is None:
            return False
        films = max([writer.size() for writer in part.videos.values()], default=0)
        return part.data_path.stat().st_size >= self._limit or films >= 2 * self._limit

    def commit(self) -> tuple[dict[str, Any], list[Path]]:
        """Close the open part; returns the state to go on from and the part's files."""
        part, paths = self._part, list[Path]()
        if part is not None:
            part.data.close()
            for writer in part.videos.values():
                writer.close()
            pa: Any = require("pyarrow", "data")
            parquet: Any = require("pyarrow.parquet", "data")
            table = self._path("meta/episodes/{}.parquet")
            parquet.write_table(pa.Table.from_pylist(part.rows), table)
            paths = [part.data_path, table, *(writer.path for writer in part.videos.values())]
            self._state.parts += 1
            self._part = None
        state = self._state
        kept = {"parts": state.parts, "episodes": state.episodes, "frames": state.frames, "tasks": dict(state.tasks)}
        return kept, paths

    def close(self) -> None:
        """Let go of the files of the open part, finished or not."""
        part, self._part = self._part, None
        if part is not None:
            part.data.close()
            for writer in part.videos.values():
                writer.close()

    def finish(self, splits: Mapping[str, int]) -> None:
        """Write what describes the whole; `splits` counts the episodes of each, in order."""
        state = self._state
        write_meta(self.place, self.columns, self.fps, splits, state.tasks, (state.episodes, state.frames))
        extra = {
            "name": self.name,
            "columns": {c.ours: c.name for c in self.columns if c.ours in self.features.steps},
            "instruction": self._said,
            "features": self.features.to_json(),
        }
        (self.place / "meta" / "openvla.json").write_text(json.dumps(extra, indent=2) + "\n")

    def _open(self) -> _Part:
        pa: Any = require("pyarrow", "data")
        parquet: Any = require("pyarrow.parquet", "data")
        stored = [column for column in self.columns if column.kind != "video"]
        hub = {"info": {"features": {column.name: column.hub() for column in stored}}}
        schema = pa.schema([(c.name, c.arrow()) for c in stored], metadata={"huggingface": json.dumps(hub)})
        path = self._path("data/{}.parquet")
        videos = {
            c.name: VideoWriter(self._path(f"videos/{c.name}/{{}}.mp4"), self.fps, *c.shape[:2])
            for c in self.columns
            if c.kind == "video"
        }
        return _Part(parquet.ParquetWriter(path, schema), path, videos)

    def _path(self, template: str) -> Path:
        chunk, number = divmod(self._state.parts, CHUNK)
        path = self.place / template.format(f"chunk-{chunk:03d}/file-{number:03d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _numbers(self, prefix: str) -> dict[str, int]:
        chunk, number = divmod(self._state.parts, CHUNK)
        return {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": number}

    def _cells(self, episode: Episode, column: Column) -> Any:
        """The values of one column, in the form that arrow takes; None for a video."""
        if column.kind == "video" or column.ours == TIMESTAMP:
            return None
        values = episode.steps[column.ours]
        if column.kind == "image":
            return [{"bytes": bytes(item), "path": f"frame-{i:06d}"} for i, item in enumerate(values)]
        if column.kind == "string":
            return [item.decode() if isinstance(item, bytes) else str(item) for item in values]
        if values.reshape(len(values), -1).shape[1] != np.prod(column.shape):
            raise DataError(f"{episode.source}: {column.ours!r} has shape {values.shape[1:]}, not {column.shape}")
        array = values.astype(column.kind)
        return array.reshape(-1) if column.shape == (1,) else list(array) if array.ndim == 2 else array.tolist()

    def _counters(self, episode: Episode) -> dict[str, Any]:
        state, steps = self._state, np.arange(len(episode))
        numbers = [state.tasks.setdefault(words, len(state.tasks)) for words in self._words(episode)]
        return {
            TIMESTAMP: (steps / self.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(steps), state.episodes),
            "index": steps + state.frames,
            "task_index": np.array(numbers, np.int64),
        }

    def _words(self, episode: Episode) -> list[str]:
        if self._said is None:
            return [""] * len(episode)
        return [item.decode() if isinstance(item, bytes) else str(item) for item in episode.steps[self._said]]

    def _check_times(self, episode: Episode) -> None:
        """Raises DataError where recorded timestamps run at another rate than the data set will say."""
        if TIMESTAMP not in episode.steps:
            return
        times = np.asarray(episode.steps[TIMESTAMP], np.float64).reshape(-1)
        off = np.abs(times - times[0] - np.arange(len(times)) / self.fps)
        if len(times) and not off.max() <= TIME_TOLERANCE:
            step = int(np.argmax(~(off <= TIME_TOLERANCE)))
            raise DataError(
                f"{episode.source}: the timestamp {times[step]:.4f} s at step {step} does not fit {self.fps} steps a "
                "second; give the true rate with --fps, or bring the data to one with `data doctor --fix resample=HZhz`"
            )

    def _statistics(self, episode: Episode, column: Column, columns: Mapping[str, Any]) -> stats.Numbers:
        if column.is_camera:
            steps = stats.sampled_steps(len(episode))
            return stats.of_images([episode.image(column.ours, step) for step in steps])
        if column.ours in episode.steps and column.ours != TIMESTAMP:
            return stats.of_values(episode.steps[column.ours])
        return stats.of_values(columns[column.name])

    def _film(self, episode: Episode, name: str, writer: VideoWriter) -> dict[str, Any]:
        """Append the frames of one camera; returns where they lie."""
        ours = next(column.ours for column in self.columns if column.name == name)
        start = writer.frames
        for step in range(len(episode)):
            writer.add(episode.image(ours, step))
        times = {"from_timestamp": start / self.fps, "to_timestamp": writer.frames / self.fps}
        return self._numbers(f"videos/{name}") | {f"videos/{name}/{key}": time for key, time in times.items()}

    def _metadata(self, episode: Episode) -> bytes:
        stored: dict[str, Any] = {}
        for name, leaf in self.features.metadata.items():
            stored |= encode_leaf(leaf, episode.metadata[name], episode.source)
        return serialize_example(stored)
