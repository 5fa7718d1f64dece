"""An RLDS data set written shard by shard, so that an interrupted conversion goes on at the last shard.

A shard is written as `SPLIT.NUMBER` and gets its final name, which says how many there are, at the end.

Source: RLDS (Ramos et al. 2021, arXiv:2111.02767); layout of TensorFlow Datasets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from openvla.data.episode import Episode
from openvla.data.rlds import encode_episode
from openvla.data.tfds.info import DEFAULT_TEMPLATE, FEATURES_FILE, INFO_FILE, Split, info_json, shard_name
from openvla.data.tfds.tfrecord import write_record

MEGABYTE = 1_000_000


@dataclass
class _Shards:
    """The shards of one split: episodes in each, and bytes of all payloads."""

    lengths: list[int] = field(default_factory=list[int])
    payload_bytes: int = 0


class RldsWriter:
    """Writes episodes below `place`, a version directory of its own."""

    def __init__(self, place: Path, first: Episode, *, name: str, version: str, part_megabytes: float) -> None:
        """first: an episode described like all others."""
        self.place, self.features, self.name, self.version = place, first.features, name, version
        self._limit = part_megabytes * MEGABYTE
        self._splits: dict[str, _Shards] = {}
        self._file: BinaryIO | None = None
        self._split = ""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the shard that `commit` described so."""
        self._splits = {name: _Shards(*each) for name, each in state["splits"].items()}

    def add(self, episode: Episode, split: str) -> None:
        """Append one episode to the open shard of `split`. Raises DataError where it does not fit the description."""
        payload = encode_episode(episode, self.features)
        shards = self._splits.setdefault(split, _Shards())
        if self._file is None:
            self._split = split
            self._file = self._path(split, len(shards.lengths)).open("wb")
            shards.lengths.append(0)
        write_record(self._file, payload)
        shards.lengths[-1] += 1
        shards.payload_bytes += len(payload)

    @property
    def full(self) -> bool:
        """Whether the open shard has reached its size."""
        return self._file is not None and self._file.tell() >= self._limit

    def commit(self) -> tuple[dict[str, Any], list[Path]]:
        """Close the open shard; returns the state to go on from and the shard's file."""
        paths: list[Path] = []
        if self._file is not None:
            self._file.close()
            self._file = None
            paths = [self._path(self._split, len(self._splits[self._split].lengths) - 1)]
        return {"splits": {name: [each.lengths, each.payload_bytes] for name, each in self._splits.items()}}, paths

    def close(self) -> None:
        """Let go of the open shard, finished or not."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, splits: Mapping[str, int]) -> None:
        """Give the shards their names and write the descriptions; `splits` names those that there are."""
        written: dict[str, Split] = {}
        for split in splits:
            shards = self._splits[split]
            count = len(shards.lengths)
            names = tuple(shard_name(DEFAULT_TEMPLATE, self.name, split, i, count) for i in range(count))
            for i, name in enumerate(names):
                if not (self.place / name).exists():  # where an earlier run was interrupted here
                    self._path(split, i).rename(self.place / name)
            written[split] = Split(split, tuple(shards.lengths), names, shards.payload_bytes)
        for filename, content in (
            (FEATURES_FILE, self.features.to_json()),
            (INFO_FILE, info_json(self.name, self.version, written)),
        ):
            (self.place / filename).write_text(json.dumps(content, indent=2) + "\n")

    def _path(self, split: str, number: int) -> Path:
        return self.place / f"{split}.{number}"
