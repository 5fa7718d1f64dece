"""LeRobot data sets, read without the lerobot package: parquet columns, PNG or JPEG in parquet, and mp4 cameras.

v3.0 keeps many episodes per parquet file and mp4, and one row per episode in `meta/episodes`; v2.1 has one file per
episode and `meta/*.jsonl`. The quantiles in LeRobot's own statistics are averages over episodes, no quantiles, and
are not used: `data stats` computes them from the actions.

Shapes: T steps of an episode.
Source: LeRobotDataset v3.0 and v2.1, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.data.episode import Episode
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import INSTRUCTION, Source
from openvla.data.lerobot import tables
from openvla.data.lerobot.info import INFO, Feature, LeRobotInfo
from openvla.data.lerobot.parquet import column, pick, reading, texts
from openvla.data.lerobot.tables import EpisodeRow
from openvla.data.lerobot.video import open_video
from openvla.data.tfds.example import parse_example
from openvla.data.tfds.features import Features, Tensor
from openvla.data.tfds.fields import decode_metadata, objects
from openvla.errors import DataError, require

SLACK = 0.25
"""How far, in frames, a video frame may lie from the time that the metadata gives."""


@dataclass
class _RowGroup:
    """The rows of a parquet file that were read last."""

    path: Path
    groups: tuple[int, ...]
    table: Any


class LeRobotSource(Source):
    """A LeRobot data set v3.x, v2.1 or v2.0."""

    format = "lerobot"

    def __init__(self, path: Path) -> None:
        """Raises DataError for a description that is missing, malformed or of another version."""
        self.info = LeRobotInfo.load(path)
        name = str((self.info.extra or {}).get("name", path.absolute().name))
        version = "v" + ".".join(map(str, self.info.version))
        super().__init__(path, name, version, control_hz=self.info.fps)
        self._said = str((self.info.extra or {}).get("instruction", INSTRUCTION))
        self._last: _RowGroup | None = None

    def _count(self) -> Mapping[str, int]:
        return {name: len(episodes) for name, episodes in self.info.splits.items()}

    def _describe(self) -> Features:
        return self.info.description

    @cached_property
    def _tasks(self) -> dict[int, str]:
        return tables.tasks(self.info)

    @cached_property
    def _rows(self) -> dict[int, EpisodeRow]:
        return tables.episode_rows(self.info)

    def load(self, split: str, number: int) -> Episode:
        """Episode `number` of `split`. Raises DataError naming the file, the episode and, where it is one, the step."""
        episode = self.info.splits[split][number]
        if episode not in self._rows:
            raise DataError(
                f"{self.path / 'meta'} describes no episode {episode}; {INFO} says there is; fetch it again"
            )
        row = self._rows[episode]
        source = f"{row.data}, episode {episode}"
        table = self._table(row, source)
        columns = self.info.columns
        steps: dict[str, Any] = {
            ours: self._values(table, name, self.info.features.get(name), row, source)
            for ours, name in columns.items()
            if ours in self.features.steps
        }
        if self._said in self.features.steps and self._said not in columns:
            steps[self._said] = self._instructions(table, source)
        return Episode(steps, self._metadata(row, source), source, self.features)

    def _table(self, row: EpisodeRow, source: str) -> Any:
        """The T rows of one episode."""
        parquet: Any = require("pyarrow.parquet", "data")
        compute: Any = require("pyarrow.compute", "data")
        with reading(row.data), parquet.ParquetFile(row.data) as file:
            groups = _groups_of(file, row.episode)
            if self._last is None or (self._last.path, self._last.groups) != (row.data, groups):
                self._last = _RowGroup(row.data, groups, file.read_row_groups(list(groups)))
        table = self._last.table
        if "episode_index" in table.column_names:
            table = table.filter(compute.equal(table.column("episode_index"), row.episode))
        if len(table) != row.length:
            raise DataError(
                f"{source} has {len(table)} steps there, the metadata says {row.length}; the files are from different "
                "versions or incomplete, fetch them again"
            )
        return table

    def _values(self, table: Any, name: str, feature: Feature | None, row: EpisodeRow, source: str) -> Any:
        if feature is None:
            raise DataError(f"{self.path / INFO} lacks the feature {name!r}, which the data should have")
        if feature.kind == "video":
            return self._frames(table, name, row, source)
        if feature.kind == "image":
            return objects(self._image(cell, name, i, source) for i, cell in enumerate(_cells(table, name, source)))
        if feature.kind == "string":
            return texts(table, name, source)
        leaf = next(leaf for ours, leaf in self.features.steps.items() if self.info.columns.get(ours) == name)
        tensor = cast("Tensor", leaf.feature)
        return column(table, name, tuple(size or 0 for size in tensor.shape), tensor.dtype, source)

    def _image(self, cell: Any, name: str, step: int, source: str) -> bytes:
        """The encoded image in a cell {bytes, path}."""
        held = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(held, bytes):
            return held
        path = cell.get("path") if isinstance(cell, dict) else None
        if not path or not (self.path / path).is_file():
            raise DataError(
                f"{source}: {name!r} at step {step} has neither bytes nor a file ({path!r}); fetch it again"
            )
        return (self.path / path).read_bytes()

    def _frames(self, table: Any, name: str, row: EpisodeRow, source: str) -> LazyImages:
        """The frames of a camera that is a video; checked to be long enough, decoded when asked for."""
        path, start = row.videos[name] if name in row.videos else (Path(), 0.0)
        if name not in row.videos or not path.is_file():
            raise DataError(f"{source}: the video of {name!r} is missing ({path}); fetch it again")
        if "timestamp" in table.column_names:
            times = column(table, "timestamp", (), "float64", source)
        else:
            times = np.arange(len(table)) / self.info.fps
        times, slack = times + start, SLACK / self.info.fps
        duration = open_video(path).duration_s
        if len(times) and duration + slack < times[-1] + 1 / self.info.fps:
            raise DataError(
                f"{source}: {path} is {duration:.3f} s long, the metadata needs {times[-1] + 1 / self.info.fps:.3f} s; "
                "fetch the file again, or drop the episode"
            )

        def fetch(step: int) -> NDArray[np.uint8]:
            return open_video(path).at(float(times[step]), slack)

        return LazyImages(fetch, np.arange(len(times)), f"{source}: {name!r}")

    def _instructions(self, table: Any, source: str) -> NDArray[Any]:
        numbers = column(table, "task_index", (), "int64", source).tolist()
        for step, number in enumerate(numbers):
            if number not in self._tasks:
                raise DataError(f"{source}: the task {number} at step {step} is not among the {len(self._tasks)} tasks")
        said = [self._tasks[number] for number in numbers]
        stored_as_bytes = isinstance(self.features.steps[self._said].feature, Tensor)
        return objects([words.encode() for words in said] if stored_as_bytes else said)

    def _metadata(self, row: EpisodeRow, source: str) -> dict[str, Any]:
        if row.metadata is None:
            return {"episode_index": row.episode} if "episode_index" in self.features.metadata else {}
        return decode_metadata(self.features.metadata.values(), parse_example(row.metadata, source), source)


def _cells(table: Any, name: str, source: str) -> list[Any]:
    return pick(table, name, source).to_pylist()


def _groups_of(file: Any, episode: int) -> tuple[int, ...]:
    """The row groups that can hold rows of `episode`, by their statistics."""
    count = file.metadata.num_row_groups
    return tuple(number for number in range(count) if _can_hold(file.metadata.row_group(number), episode))


def _can_hold(group: Any, episode: int) -> bool:
    for i in range(group.num_columns):
        if group.column(i).path_in_schema == "episode_index":
            statistics = group.column(i).statistics
            if statistics is not None and statistics.has_min_max:
                return statistics.min <= episode <= statistics.max
    return True
