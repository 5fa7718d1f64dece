"""RLDS data sets on disk, read and written without TensorFlow: one `tf.train.Example` per episode in TFRecord shards.

Reading streams episodes in file order and checks what a file can be checked for: checksums, the number of episodes
per shard, every value against features.json. Writing streams episodes to shards in a temporary directory beside the
target and renames it at the end, so that a data set is there whole or not at all. What is written can be read by
TensorFlow Datasets (`tfds.builder_from_directory`).

Source: RLDS (Ramos et al. 2021, arXiv:2111.02767); layout of TensorFlow Datasets.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from openvla.data.bad import BadData
from openvla.data.episode import Episode
from openvla.data.tfds.example import parse_example, serialize_example
from openvla.data.tfds.features import Features
from openvla.data.tfds.fields import Stored, decode_metadata, decode_steps, encode_leaf
from openvla.data.tfds.info import (
    DEFAULT_TEMPLATE,
    FEATURES_FILE,
    INFO_FILE,
    VERSION,
    DatasetInfo,
    Split,
    info_json,
    shard_name,
    shards_of,
)
from openvla.data.tfds.tfrecord import Record, read_records, write_record
from openvla.errors import DataError
from openvla.files import new_directory, new_file, write_text

MEGABYTE = 1_000_000
WORD = re.compile(r"[a-zA-Z]\w*", re.ASCII)


def read_episodes(directory: str | Path, split: str = "train", bad: BadData | None = None) -> Iterator[Episode]:
    """Stream the episodes of one split, in file order.

    directory: a version directory, or the data set above it (then its highest version).
    split: a name, "all", a slice such as "train[:95%]", or several joined by "+".
    bad: stop at what cannot be used (None), or skip and count: a record, the rest of a torn shard, a missing shard.
    Raises DataError at once for a directory or split that does not exist and for a missing shard; while reading, for
    damaged bytes (file, record number, byte offset) and for records that do not fit the description.
    """
    info = DatasetInfo.load(directory)
    parts = [part for each, episodes in info.select(split) for part in shards_of(each, episodes)]
    bad = bad or BadData()
    missing = [filename for filename, *_ in parts if not (info.directory / filename).is_file()]
    for filename in missing:
        held = ", ".join(sorted(path.name for path in info.directory.glob("*tfrecord*"))) or "no shards at all"
        bad.report(DataError(f"shard {filename} is missing from {info.directory}, which has {held}; fetch it"))
    return _read_parts(info, [part for part in parts if part[0] not in missing], bad)


def decode_episode(record: Record, features: Features) -> Episode:
    """The episode in one record. Raises DataError naming the record where it does not fit `features`."""
    stored = parse_example(record.payload, record.source)
    return Episode(
        steps=decode_steps(features.steps.values(), stored, record.source),
        metadata=decode_metadata(features.metadata.values(), stored, record.source),
        source=record.source,
        features=features,
    )


def encode_episode(episode: Episode, features: Features) -> bytes:
    """The payload of one record. Raises DataError where the episode does not fit `features`."""
    stored: Stored = {}
    tables: tuple[tuple[Mapping[str, Any], Any], ...] = (
        (episode.steps, features.steps),
        (episode.metadata, features.metadata),
    )
    for values, leaves in tables:
        if values.keys() != leaves.keys():
            differ = ", ".join(repr(name) for name in sorted(values.keys() ^ leaves.keys()))
            raise DataError(f"{episode.source} and the data set's description differ in {differ}; record all alike")
        for name, leaf in leaves.items():
            stored |= encode_leaf(leaf, values[name], episode.source)
    lengths = {name: len(values) for name, values in episode.steps.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{episode.source}: everything needs one value at every step; the lengths are {lengths}")
    return serialize_example(stored)


def write_episodes(
    directory: str | Path,
    episodes: Iterable[Episode] | Mapping[str, Iterable[Episode]],
    *,
    name: str | None = None,
    features: Features | None = None,
    version: str = "1.0.0",
    split: str = "train",
    shard_megabytes: float = 256,
) -> Path:
    """Write a data set to `directory`/`version` and return that path.

    directory: the data set's directory, or the version directory itself.
    episodes: streamed, never all in memory; a mapping writes one split per key, else all go to `split`.
    name: what TensorFlow Datasets calls the set; the directory's name where None.
    features: the description; that of the first episode where None.
    shard_megabytes: a new file is begun once one holds this much.
    Raises DataError for an existing target, no episodes, and episodes that do not fit the description. Whatever
    interrupts the writing, nothing is left at the target.
    """
    target = Path(directory)
    if not VERSION.fullmatch(target.name):
        target = target / version
    name = name or re.sub(r"\W", "_", target.absolute().parent.name)
    splits = _by_split(episodes, split)
    _check_names(name, target.name, splits)
    with new_directory(target, DataError) as place:
        written: dict[str, Split] = {}
        for each, stream in splits.items():
            first_features, written[each] = _write_split(place, name, each, stream, features, shard_megabytes)
            features = features or first_features
        empty = [each for each, info in written.items() if not info.num_episodes]
        if features is None or empty:
            raise DataError(f"there is no episode to write to {target}, split {empty}; each split needs at least one")
        for filename, content in (
            (FEATURES_FILE, features.to_json()),
            (INFO_FILE, info_json(name, target.name, written)),
        ):
            write_text(place / filename, json.dumps(content, indent=2) + "\n", DataError)
    return target


def _read_parts(info: DatasetInfo, parts: list[tuple[str, int, int, int]], bad: BadData) -> Iterator[Episode]:
    for filename, first, stop, length in parts:
        path, found, before = info.directory / filename, first, len(bad.skipped)
        for record in read_records(path, first, None if stop == length else stop, bad):
            found = record.number + 1
            if found > length:
                says = f"the {length} episodes that {INFO_FILE} says"
                bad.report(DataError(f"{path} holds more than {says}; {_MIXED}"))
                break
            try:
                episode = decode_episode(record, info.features)
            except DataError as error:
                bad.report(error)
            else:
                yield episode
        if found < stop and len(bad.skipped) == before:
            says = f"{INFO_FILE} says it holds {length} episodes"
            bad.report(DataError(f"{path} ends before record {found}, {says}; {_MIXED}"))


_MIXED = "the files are from different versions or incomplete, fetch the data set again"


def _write_split(
    place: Path, name: str, split: str, stream: Iterable[Episode], features: Features | None, shard_megabytes: float
) -> tuple[Features | None, Split]:
    """Write the shards of one split; returns the description used and the split."""
    lengths: list[int] = []
    sizes = payload_bytes = 0
    with contextlib.ExitStack() as stack:
        file: BinaryIO | None = None
        for episode in stream:
            features = features or episode.features
            payload = encode_episode(episode, features)
            if file is None or sizes + len(payload) > shard_megabytes * MEGABYTE:
                stack.close()
                file = stack.enter_context(new_file(place / f"{split}.{len(lengths)}"))
                lengths.append(0)
                sizes = 0
            sizes += write_record(file, payload)
            payload_bytes += len(payload)
            lengths[-1] += 1
    names = tuple(shard_name(DEFAULT_TEMPLATE, name, split, i, len(lengths)) for i in range(len(lengths)))
    for i, filename in enumerate(names):
        (place / f"{split}.{i}").rename(place / filename)
    return features, Split(split, tuple(lengths), names, payload_bytes)


def _by_split(episodes: Any, split: str) -> Mapping[str, Iterable[Episode]]:
    return episodes if isinstance(episodes, Mapping) else {split: episodes}


def _check_names(name: str, version: str, splits: Mapping[str, object]) -> None:
    if not WORD.fullmatch(name):
        raise DataError(
            f"{name!r} cannot name a data set; use letters, digits and underscores, beginning with a letter"
        )
    if not VERSION.fullmatch(version):
        raise DataError(f"{version!r} is no version; write three numbers such as 1.0.0")
    for split in splits:
        if not WORD.fullmatch(split) or split == "all":
            raise DataError(f"{split!r} cannot name a split; use a word such as train or val, and not 'all'")
