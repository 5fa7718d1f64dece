"""A folder of images with one table: the format for data of one's own that needs no library to write.

The table is a CSV file with a header, or JSON lines, with one row per step; all rows of an episode stand together, in
order. Image paths are relative to the table. Columns:

    episode       any word; rows with the same one are one episode
    image         path of the camera image, JPEG or PNG; further cameras: image_wrist, image_left, ...
    instruction   what the robot was told; may be empty
    action_NAME   one column per action dimension, in order: action_x, action_y, ..., action_gripper
    state_NAME    the robot's state likewise (optional)
    timestamp     seconds (optional)
    split         "train", "val", ... (optional; "train" where omitted)

In JSON lines `action` and `state` may be lists instead. Here they are called "observation|image",
"observation|image_wrist", "language_instruction", "action", "observation|state", "timestamp".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from openvla.data.episode import Episode, describe
from openvla.data.formats.lazy import LazyImages
from openvla.data.formats.source import ACTION, INSTRUCTION, STATE, Source
from openvla.data.tfds.features import Features, Image, Node, Tensor, Text
from openvla.data.tfds.fields import objects
from openvla.errors import DataError

EPISODE, SPLIT, TIME, WORDS = "episode", "split", "timestamp", "instruction"
HEADER_BYTES = 65536
SCHEMA = "each row needs episode, image, instruction and action_* columns"
Row = dict[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where one episode's rows lie in the table: bytes [start, stop), and the number of the first line."""

    word: str
    start: int
    stop: int
    line: int


class FolderSource(Source):
    """The episodes of one table and the images beside it."""

    format = "folder"

    def __init__(self, path: Path) -> None:
        """path: the table, or the directory with exactly one. Raises DataError, also for a table of other content."""
        self.table = find_table(path)
        super().__init__(path, self.table.absolute().parent.name)
        self._parse = _parser(self.table)

    def _count(self) -> Mapping[str, int]:
        return {name: len(places) for name, places in self._places.items()}

    @cached_property
    def _places(self) -> dict[str, list[_Place]]:
        """Split -> the episodes' places, found in one pass over the table."""
        table: dict[str, list[_Place]] = {}
        seen: dict[str, int] = {}
        current: tuple[str, str, int, int] | None = None
        offset = 0
        for line, offset, row in _rows(self.table, self._parse):
            word, split = str(row[EPISODE]), str(row.get(SPLIT) or "train")
            if current is not None and word == current[0]:
                if split != current[1]:
                    raise DataError(f"{self.table}, line {line}: episode {word!r} is in two splits; name one")
                continue
            if word in seen:
                raise DataError(
                    f"{self.table}, line {line}: episode {word!r} goes on after another one began (its first row is "
                    f"line {seen[word]}); sort the rows"
                )
            if current is not None:
                table.setdefault(current[1], []).append(_Place(current[0], current[2], offset, current[3]))
            seen[word], current = line, (word, split, offset, line)
        if current is None:
            raise DataError(f"{self.table} has no rows; {SCHEMA}")
        stop = self.table.stat().st_size
        table.setdefault(current[1], []).append(_Place(current[0], current[2], stop, current[3]))
        return table

    def _describe(self) -> Features:
        _, _, row = next(_rows(self.table, self._parse))
        nodes: dict[str, Node] = {f"observation|{name}": Image((None, None, 3), "") for name in _cameras(row)}
        for prefix, ours in (("action", ACTION), ("state", STATE)):
            names, size = _vector_columns(row, prefix)
            if names:
                nodes[ours] = Tensor((size,), "float32")
        if TIME in row:
            nodes[TIME] = Tensor((), "float32")
        return describe(nodes | {INSTRUCTION: Text()}, {"episode": Text()})

    def load(self, split: str, number: int) -> Episode:
        """Episode `number` of `split`. Raises DataError naming table, line, episode and column."""
        place = self._places[split][number]
        with self.table.open("rb") as file:
            file.seek(place.start)
            lines = file.read(place.stop - place.start).decode("utf-8", errors="replace").splitlines()
        numbered = [(place.line + i, text) for i, text in enumerate(lines) if text.strip()]
        rows = [self._parse(text, f"{self.table}, line {line}") for line, text in numbered]
        sources = [f"{self.table}, line {line}, episode {place.word!r}" for line, _ in numbered]
        steps: dict[str, Any] = {}
        for name, leaf in self.features.steps.items():
            if isinstance(leaf.feature, Image):
                steps[name] = self._images(name, rows, sources)
            elif name == INSTRUCTION:
                steps[name] = objects(str(row.get(WORDS) or "") for row in rows)
            else:
                shape = tuple(size or 0 for size in cast("Tensor", leaf.feature).shape)
                column = {ACTION: "action", STATE: "state"}.get(name, name)
                values = [_numbers(row, column, shape, where) for row, where in zip(rows, sources, strict=True)]
                steps[name] = np.array(values, np.float32).reshape(len(rows), *shape)
        source = f"{self.table}, episode {place.word!r}"
        return Episode(steps, {"episode": place.word}, source, self.features)

    def _images(self, name: str, rows: list[Row], sources: list[str]) -> LazyImages:
        column = name.removeprefix("observation|")
        paths = [self.table.parent / str(row.get(column) or "") for row in rows]
        for step, (path, where) in enumerate(zip(paths, sources, strict=True)):
            if not path.is_file():
                raise DataError(
                    f"{where}, step {step}: the image {str(path)!r} of column {column!r} is not there; correct the "
                    "path, or drop the row"
                )
        return LazyImages(lambda step: paths[step].read_bytes(), np.arange(len(paths)), f"{sources[0]}: {name!r}")


def find_table(path: Path) -> Path:
    """The table at or in `path`, told by its content. Raises DataError where there is none, or more than one."""
    if not path.is_dir():
        if not is_table(path):
            raise DataError(f"{path} is no table of steps; {SCHEMA}")
        return path
    found = [each for each in sorted(path.iterdir()) if each.is_file() and is_table(each)]
    if len(found) != 1:
        held = ", ".join(each.name for each in found) or "none"
        raise DataError(f"{path} needs exactly one table of steps, CSV or JSON lines, and has {held}; {SCHEMA}")
    return found[0]


def is_table(path: Path) -> bool:
    """Whether a file begins as a table of steps: a header or a JSON object with `episode` and `image`."""
    with path.open("rb") as file:
        first = file.readline(HEADER_BYTES)
    try:
        text = first.decode("utf-8-sig").strip()
        names = json.loads(text).keys() if text.startswith("{") else next(csv.reader([text]), [])
    except (UnicodeDecodeError, ValueError, AttributeError, csv.Error):
        return False
    return {EPISODE, "image"} <= {str(name).strip() for name in names}


def _parser(table: Path) -> Callable[[str, str], Row]:
    """What turns one line, with a name for errors, into a row."""
    with table.open("rb") as file:
        header = file.readline(HEADER_BYTES).decode("utf-8-sig").strip()
    if header.startswith("{"):
        return _parse_json
    names = [name.strip() for name in next(csv.reader([header]))]

    def parse(text: str, source: str) -> Row:
        try:
            cells = next(csv.reader(io.StringIO(text), strict=True))
        except (csv.Error, StopIteration) as error:
            raise DataError(f"{source} is no CSV: {error}; quote cells that hold commas, one row per line") from error
        if len(cells) != len(names):
            raise DataError(f"{source} has {len(cells)} cells, the header {len(names)}; quote cells that hold commas")
        return dict(zip(names, cells, strict=True))

    return parse


def _parse_json(text: str, source: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{source} is not JSON: {error}; write one object per line") from error
    if not isinstance(row, dict):
        raise DataError(f"{source} holds {type(row).__name__}, not an object; {SCHEMA}")
    return cast("Row", row)


def _rows(table: Path, parse: Callable[[str, str], Row]) -> Iterator[tuple[int, int, Row]]:
    """(line number, byte offset, row) of every row."""
    offset = 0
    with table.open("rb") as file:
        for line, raw in enumerate(file, 1):
            text = raw.decode("utf-8-sig", errors="replace").strip()
            if text and not (line == 1 and parse is not _parse_json):
                row = parse(text, f"{table}, line {line}")
                if row.get(EPISODE) in (None, ""):
                    raise DataError(f"{table}, line {line} names no episode; {SCHEMA}")
                yield line, offset, row
            offset += len(raw)


def _cameras(row: Row) -> list[str]:
    return [name for name in row if name == "image" or name.startswith("image_")]


def _vector_columns(row: Row, prefix: str) -> tuple[list[str], int]:
    """The columns of a vector and its size: one list, or one column per dimension."""
    if isinstance(row.get(prefix), list):
        return [prefix], len(row[prefix])
    names = [name for name in row if name.startswith(f"{prefix}_")]
    return names, len(names)


def _numbers(row: Row, column: str, shape: tuple[int, ...], source: str) -> Any:
    cells = [row[column]] if not shape else row.get(column)
    if not isinstance(cells, list):
        cells = [row[name] for name in _vector_columns(row, column)[0]]
    if shape and len(cells) != shape[0]:
        raise DataError(f"{source}: {column!r} has {len(cells)} values, in the first row {shape[0]}; write all alike")
    try:
        values = [float(cell) for cell in cells]
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: {column!r} holds {cells}, not numbers; {error}") from error
    return values if shape else values[0]
