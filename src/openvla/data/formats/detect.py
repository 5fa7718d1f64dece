"""One door to all formats: what lies at a path is told by its content, never by a name that a user chose.

rlds      dataset_info.json and TFRecord shards, as TensorFlow Datasets writes them
lerobot   meta/info.json with a codebase_version (v3.x, v2.1, v2.0), parquet and mp4
hdf5      a file that starts as HDF5 does, or a directory of such files (robomimic, LIBERO, ALOHA)
folder    a CSV or JSON-lines table with the columns `episode` and `image`, and the images beside it
iterator  a Python iterable of episodes, or `FILE.py:NAME` that names one or a function that makes one
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openvla.data.bad import BadData
from openvla.data.episode import Episode
from openvla.data.formats.aloha import AlohaSource, is_aloha
from openvla.data.formats.folder import FolderSource, is_table
from openvla.data.formats.hdf5 import Hdf5Source, is_hdf5
from openvla.data.formats.iterator import IteratorSource, import_episodes
from openvla.data.formats.source import Source, empty
from openvla.data.lerobot.info import INFO as LEROBOT_INFO
from openvla.data.lerobot.read import LeRobotSource
from openvla.data.registry.find import DATASETS
from openvla.data.rlds import read_episodes
from openvla.data.tfds.features import Features
from openvla.data.tfds.info import INFO_FILE, DatasetInfo, find_version
from openvla.errors import DataError, lookup

Data = str | Path | Iterable["Episode | Mapping[str, Any]"]


def open_dataset(
    path: Data,
    format: str | None = None,  # noqa: A002
    *,
    split: str = "train",
    bad: BadData | None = None,
) -> Iterator[Episode]:
    """Stream the episodes of a data set of any format, one in memory at a time.

    path: a file or directory, `FILE.py:NAME`, or an iterable of `Episode`s or of what `build_episode` takes.
    format: one of the names above; None looks at the content.
    split: a name, "all", a slice such as "train[:95%]", or several joined by "+".
    bad: stop at the first episode that cannot be used (None), or skip and count.
    Raises UsageError for an unknown format, DataError for what cannot be read, naming file, episode and step.
    """
    return open_source(path, format).episodes(split, bad)


def open_source(path: Data, format: str | None = None) -> Source:  # noqa: A002
    """The data set at `path`, with its name, splits and description. Raises as `open_dataset`."""
    if not isinstance(path, str | Path):
        return IteratorSource(path)
    kind = format or detect(path)
    make = lookup(kind, SOURCES, "format")
    return make(Path(path))


def detect(path: str | Path) -> str:
    """The format of what lies at `path`. Raises DataError where it is none of those known, or not there."""
    place = Path(path)
    if not place.exists():
        if place.suffix.startswith(".py:"):
            return "iterator"
        raise DataError(f"there is no directory or file {place}; check the path")
    try:
        found = _detect_file(place) if place.is_file() else _detect_directory(place)
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror or error}; check the path") from error
    if found is None:
        held = ", ".join(sorted(each.name for each in place.iterdir())[:10]) if place.is_dir() else "other bytes"
        raise DataError(
            f"{place} is no data set: no {INFO_FILE} (RLDS) in it or a version below it, no {LEROBOT_INFO} (LeRobot), "
            f"no HDF5 file, no table with the columns episode and image; it has {held or 'nothing'}"
        )
    return found


def _detect_file(path: Path) -> str | None:
    if is_hdf5(path):
        return "hdf5"
    return "folder" if is_table(path) else None


def _detect_directory(path: Path) -> str | None:
    if (path / LEROBOT_INFO).is_file() and _has_key(path / LEROBOT_INFO, "codebase_version"):
        return "lerobot"
    if (path / INFO_FILE).is_file() or any(path.glob(f"*.*.*/{INFO_FILE}")):
        return "rlds"
    files = [each for each in sorted(path.iterdir()) if each.is_file()]
    if any(map(is_hdf5, files)):
        return "hdf5"
    return "folder" if any(map(is_table, files)) else None


def _has_key(path: Path, key: str) -> bool:
    try:
        return key in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return True  # damaged, but in the place where only LeRobot data have a file: its reader says what is wrong


class RldsSource(Source):
    """An RLDS data set: `dataset_info.json`, `features.json` and TFRecord shards, read in file order."""

    format = "rlds"

    def __init__(self, path: Path) -> None:
        """path: a version directory, or the one above (then its highest version)."""
        self.info = DatasetInfo.load(find_version(path))
        record = DATASETS.get(self.info.name)
        super().__init__(
            self.info.directory, self.info.name, self.info.version, record.action.control_hz if record else 0.0
        )

    def _count(self) -> Mapping[str, int]:
        return {name: split.num_episodes for name, split in self.info.splits.items()}

    def _describe(self) -> Features:
        return self.info.features

    def load(self, split: str, number: int) -> Episode:
        return next(read_episodes(self.path, f"{split}[{number}:{number + 1}]"))

    def episodes(self, split: str = "train", bad: BadData | None = None) -> Iterator[Episode]:
        bad = bad or BadData()
        return (e for e in read_episodes(self.path, split, bad) if len(e) or bad.report(empty(e)))


SOURCES: dict[str, Callable[[Path], Source]] = {
    "rlds": RldsSource,
    "lerobot": LeRobotSource,
    "hdf5": lambda path: AlohaSource(path) if is_aloha(path) else Hdf5Source(path),
    "folder": FolderSource,
    "iterator": lambda path: IteratorSource(import_episodes(str(path)), path),
}
