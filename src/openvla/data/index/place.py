"""Where the index of a data set lies, and whether it still fits the files it was made of.

Nothing is written into a data set's own folder: an index lies in the user's cache, under a name made of the data set's
path and record, unless another place is given. It remembers size and time of every shard, and a digest of the two
descriptions and of the record's own code; when any of these differ, it is stale.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.info import FEATURES_FILE, INFO_FILE, DatasetInfo
from openvla.errors import DataError
from openvla.files import cache_home

FORMAT = 1
"""Counts the changes of what an index holds."""

Shard = dict[str, Any]


def index_home(info: DatasetInfo, dataset: str | DataRecord) -> Path:
    """The index's place in the cache."""
    digest = hashlib.sha256(f"{info.directory.resolve()}\n{called(dataset)}".encode()).hexdigest()[:16]
    return cache_home() / "index" / f"{info.name}-{info.version}-{digest}"


@dataclass(frozen=True)
class Origin:
    """What an index is made of. description: a digest. shards: name, size, time, episodes and split of each."""

    dataset: str
    description: str
    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, info: DatasetInfo, dataset: str | DataRecord) -> Origin:
        """The data set as it is now; a shard that is missing has size -1. Raises DataError."""
        name = called(dataset)
        told = [(info.directory / file).read_bytes() for file in (INFO_FILE, FEATURES_FILE)]
        told += [f"{FORMAT} {metadata.version('openvla')} {name}".encode(), _own_record(name)]
        digest = hashlib.sha256(b"\n".join(hashlib.sha256(part).digest() for part in told)).hexdigest()
        shards = [
            {"file": file, "split": split.name, "episodes": length, **_state(info.directory / file)}
            for split in info.splits.values()
            for file, length in zip(split.filenames, split.shard_lengths, strict=True)
        ]
        return cls(name, digest, tuple(shards))

    def difference(self, then: Origin) -> str | None:
        """In words what has changed since `then`; None where nothing has."""
        if self.dataset != then.dataset:
            return f"it was made for {then.dataset!r}, not for {self.dataset!r}"
        if len(self.shards) != len(then.shards):
            return f"there were {len(then.shards)} shards and now there are {len(self.shards)}"
        for now, before in zip(self.shards, then.shards, strict=True):
            if now != before:
                what = next(name for name in now if now[name] != before.get(name))
                return f"{now['file']} has changed ({what} was {before.get(what)}, is {now[what]})"
        if self.description != then.description:
            return "the data set's description, its record, or the index format has changed"
        return None

    def stamp(self, shard: int) -> str:
        """What a part made of `shard` depends on."""
        return json.dumps([self.dataset, self.description, shard, self.shards[shard]], sort_keys=True)


def called(dataset: str | DataRecord) -> str:
    """What an index says that it was made for: "my_robot.py:MY_ROBOT" as it was given, a record by its name."""
    return dataset if isinstance(dataset, str) else find_record(dataset).name


def _state(path: Path) -> Shard:
    try:
        found = path.stat()
    except FileNotFoundError:
        return {"bytes": -1, "time_ns": 0}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return {"bytes": found.st_size, "time_ns": found.st_mtime_ns}


def _own_record(dataset: str) -> bytes:
    """The file of a user's own record ("my_robot.py:MY_ROBOT"), so that editing it makes the index stale."""
    path = Path(dataset.rpartition(":")[0])
    return path.read_bytes() if path.is_file() else b""
