"""What a LeRobot v3.0 data set says about itself as a whole: `info.json`, `stats.json` and `tasks.parquet`.

Written last, from the parts on disk: their tables of episodes hold the statistics of each.

Source: LeRobotDataset v3.0, https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla.data.lerobot import stats
from openvla.data.lerobot.columns import Column
from openvla.data.lerobot.parquet import column as read_column
from openvla.data.lerobot.parquet import read_table
from openvla.data.lerobot.video_write import NAMES, video_codec
from openvla.errors import require

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def write_meta(
    place: Path,
    columns: Sequence[Column],
    fps: int,
    splits: Mapping[str, int],
    tasks: Mapping[str, int],
    totals: tuple[int, int],
) -> None:
    """Write the three files. totals: episodes and frames; splits: episodes of each, in order."""
    ranges: dict[str, str] = {}
    start = 0
    for name, count in splits.items():
        ranges[name] = f"{start}:{start + count}"
        start += count
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": totals[0],
        "total_frames": totals[1],
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": ranges,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(c.kind == "video" for c in columns) else None,
        "features": {
            c.name: c.describe(fps, NAMES[video_codec(*c.shape[:2])] if c.kind == "video" else "") for c in columns
        },
    }
    meta = place / "meta"
    (meta / "info.json").write_text(json.dumps(info, indent=4) + "\n")
    (meta / "stats.json").write_text(json.dumps(_statistics(place, columns), indent=4) + "\n")
    _write_tasks(meta / "tasks.parquet", tasks)


def _statistics(place: Path, columns: Sequence[Column]) -> dict[str, Any]:
    tables = sorted((place / "meta" / "episodes").glob("*/*.parquet"))
    found: dict[str, stats.Numbers] = {}
    for column in columns:
        if column.kind == "string":
            continue
        names = [f"stats/{column.name}/{key}" for key in stats.KEYS]
        rows = [row for path in tables for row in read_table(path, names).to_pylist()]
        parts = [{key: np.array(row[f"stats/{column.name}/{key}"]) for key in stats.KEYS} for row in rows]
        found[column.name] = stats.merge(parts)
        if not column.is_camera and np.prod(column.shape) <= stats.MAX_EXACT:
            found[column.name] = stats.with_quantiles(found[column.name], _all_values(place, column))
    return stats.plain(found)


def _all_values(place: Path, column: Column) -> Any:
    """Every value of one column, (frames, ...)."""
    paths = sorted((place / "data").glob("*/*.parquet"))
    shape = () if column.shape == (1,) else column.shape
    parts = [read_column(read_table(p, [column.name]), column.name, shape, column.kind, str(p)) for p in paths]
    return np.concatenate(parts)


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """The table of tasks as pandas stores a frame whose index is the words."""
    pa: Any = require("pyarrow", "data")
    parquet: Any = require("pyarrow.parquet", "data")
    words = "__index_level_0__"
    unicode = {"pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": [words],
        "column_indexes": [{"name": None, "field_name": None, **unicode, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
            | {"metadata": None},
            {"name": None, "field_name": words, **unicode, "metadata": None},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }
    schema = pa.schema([("task_index", pa.int64()), (words, pa.string())], metadata={"pandas": json.dumps(pandas)})
    numbers, names = list(tasks.values()), list(tasks)
    parquet.write_table(pa.Table.from_arrays([pa.array(numbers, pa.int64()), pa.array(names)], schema=schema), path)
