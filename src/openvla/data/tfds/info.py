"""What a data set directory says about itself: `dataset_info.json`, its splits, shards and versions.

    <dataset>/<version>/dataset_info.json, features.json, <dataset>-<split>.tfrecord-00000-of-00002, ...

Integers in `dataset_info.json` are strings. A sub-split such as "train[:95%]" counts episodes over all shards in order.

Source: TensorFlow Datasets, https://www.tensorflow.org/datasets/external_tfrecord and /datasets/splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla.data.formats.splits import select
from openvla.data.tfds.features import FETCH_AGAIN, Features
from openvla.errors import DataError
from openvla.files import read_json

INFO_FILE, FEATURES_FILE = "dataset_info.json", "features.json"
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Split:
    """One split: how many episodes each of its shards holds, and the shards' names."""

    name: str
    shard_lengths: tuple[int, ...]
    filenames: tuple[str, ...]
    num_bytes: int = 0

    @property
    def num_episodes(self) -> int:
        """Episodes in all shards."""
        return sum(self.shard_lengths)


@dataclass(frozen=True)
class DatasetInfo:
    """One version of a data set on disk."""

    directory: Path
    name: str
    version: str
    splits: Mapping[str, Split]
    features: Features

    @classmethod
    def load(cls, directory: str | Path) -> DatasetInfo:
        """Describe `directory`, a version directory or the data set above it (then its highest version).

        Raises DataError for a directory that holds no data set, and for descriptions that do not parse.
        """
        place = find_version(Path(directory))
        raw = _read_json(place / INFO_FILE)
        form = raw.get("fileFormat", "tfrecord")
        if form != "tfrecord":
            raise DataError(f"{place} stores {form!r} files; only tfrecord can be read, convert the data set first")
        name = str(raw.get("name", place.parent.name))
        try:
            splits = {entry["name"]: _parse_split(entry, name) for entry in raw["splits"]}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{place / INFO_FILE} does not describe splits ({type(error).__name__}: {error}); each needs a name "
                "and shardLengths"
            ) from error
        version = str(raw.get("version", place.name))
        return cls(place, name, version, splits, Features.load(place / FEATURES_FILE))

    def select(self, split: str) -> list[tuple[Split, range]]:
        """The episodes that `split` names: (split, episode numbers) in reading order.

        `split` is a name, "all", a slice such as "train[:95%]" or "train[10:20]", or several joined by "+".
        Raises DataError for a split that does not exist (listing those that do) and bounds outside of it.
        """
        counts = {name: each.num_episodes for name, each in self.splits.items()}
        return [(self.splits[name], episodes) for name, episodes in select(split, counts, str(self.directory))]


def find_version(directory: Path) -> Path:
    """`directory` if it is a version directory, else its highest version below. Raises DataError."""
    if (directory / INFO_FILE).is_file():
        return directory
    if not directory.is_dir():
        raise DataError(f"there is no directory {directory}; give the directory of an RLDS data set")
    versions = [path for path in directory.iterdir() if VERSION.fullmatch(path.name) and (path / INFO_FILE).is_file()]
    if not versions:
        held = ", ".join(sorted(path.name for path in directory.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{directory} is no RLDS data set: no {INFO_FILE} in it or in a version below it; it has {held}"
        )
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def shard_name(template: str, dataset: str, split: str, index: int, count: int) -> str:
    """The file name of one shard, e.g. "bridge-train.tfrecord-00000-of-00001"."""
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}",
    }
    return template.format(**values)


def info_json(name: str, version: str, splits: Mapping[str, Split]) -> dict[str, Any]:
    """The content of `dataset_info.json`."""
    entries = [
        {
            "filepathTemplate": DEFAULT_TEMPLATE,
            "name": split.name,
            "numBytes": str(split.num_bytes),
            "shardLengths": [str(length) for length in split.shard_lengths],
        }
        for split in splits.values()
    ]
    return {"name": name, "version": version, "fileFormat": "tfrecord", "splits": entries}


def shards_of(split: Split, episodes: range) -> Iterator[tuple[str, int, int, int]]:
    """The part of each shard that `episodes` covers: (file name, first, stop, episodes in the shard)."""
    before = 0
    for filename, length in zip(split.filenames, split.shard_lengths, strict=True):
        first, stop = max(episodes.start - before, 0), min(episodes.stop - before, length)
        if first < stop:
            yield filename, first, stop, length
        before += length


def _parse_split(raw: dict[str, Any], dataset: str) -> Split:
    lengths = tuple(int(length) for length in raw["shardLengths"])
    template = raw.get("filepathTemplate") or DEFAULT_TEMPLATE
    names = tuple(shard_name(template, dataset, raw["name"], i, len(lengths)) for i in range(len(lengths)))
    for path in map(Path, names):
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the shard {str(path)!r} lies outside of the directory")
    return Split(raw["name"], lengths, names, int(raw.get("numBytes", 0)))


def _read_json(path: Path) -> dict[str, Any]:
    raw = read_json(path, DataError, FETCH_AGAIN)
    if not isinstance(raw, dict):
        raise DataError(f"{path} holds a {type(raw).__name__}, not an object that describes a data set")
    return raw
