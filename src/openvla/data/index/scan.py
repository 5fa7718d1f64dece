"""One shard of an RLDS data set -> one part of its index: numbers, words, and where in the file each image is.

Every record is checked as far as it can be without decoding pixels: checksums, description, finite actions and states,
and the size of each image from its header. Images stay where they are; the part holds their byte ranges and checksums.
A part is one file, written whole or not at all, and says which shard it was made of.

Shapes: E episodes, N rows (steps after standardisation), V views, A action and P proprioception dimensions.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.codec.statistics import as_rows
from openvla.data.bad import BadData
from openvla.data.images.headers import image_size
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.standardize import StandardSteps, standardize
from openvla.data.tfds.example import BytesList, Value, parse_example
from openvla.data.tfds.features import Features, Image
from openvla.data.tfds.fields import decode_steps
from openvla.data.tfds.info import INFO_FILE
from openvla.data.tfds.tfrecord import Record, read_records
from openvla.errors import DataError, require, unknown
from openvla.files import write_bytes

EPISODE = np.dtype([("row", "<i8"), ("number", "<i8"), ("shard", "<i4"), ("record", "<i4"), ("byte", "<i8")])
"""First row; number in its split, as dataset_info.json counts; shard; record in it and its byte offset."""

RUN = np.dtype([("start", "<i8"), ("stop", "<i8"), ("episode", "<i8")])
"""Rows in a row that have an instruction: what can be trained on."""


def row_dtype(views: int, action: int, proprio: int) -> np.dtype[Any]:
    """One row: byte ranges and crc32c of its images, their shard, its raw step, where its words begin, its numbers."""
    spans = [("offset", "<i8", (views,)), ("length", "<u4", (views,)), ("crc", "<u4", (views,))]
    place = [("shard", "<i4"), ("step", "<i4"), ("words", "<i8")]
    return np.dtype([*spans, *place, ("action", "<f4", action), ("proprio", "<f4", proprio)])


@dataclass(frozen=True)
class Job:
    """What a worker needs to scan one shard. `before`: episodes of the split in the shards ahead of this one."""

    dataset: str | DataRecord
    views: tuple[tuple[str, str], ...]
    path: str
    shard: int
    episodes: int
    before: int
    stamp: str
    on_bad: str


@dataclass
class Part:
    """The index of one shard; rows, words and episodes count from zero in it."""

    rows: NDArray[Any]
    words: NDArray[np.uint8]
    episodes: NDArray[Any]
    runs: NDArray[Any]
    skipped: list[str]

    def save(self, path: Path, stamp: str) -> None:
        """Write or replace the file in one step. Raises DataError where the disk refuses."""
        buffer = io.BytesIO()
        note = np.frombuffer(json.dumps({"stamp": stamp, "skipped": self.skipped}).encode(), np.uint8)
        arrays = {name: value for name, value in vars(self).items() if name != "skipped"}
        np.savez(buffer, note=note, **arrays)
        write_bytes(path, buffer.getvalue(), DataError)

    @staticmethod
    def fits(path: Path, stamp: str) -> bool:
        """Whether there is a part at `path`, and of that shard."""
        return _note(path).get("stamp") == stamp

    @classmethod
    def load(cls, path: Path, stamp: str) -> Part | None:
        """The part at `path`, or None where there is none, or one of another shard or of an earlier state of it."""
        note = _note(path)
        if note.get("stamp") != stamp:
            return None
        with np.load(path) as held:
            arrays = {name: held[name] for name in ("rows", "words", "episodes", "runs")}
        return cls(**arrays, skipped=list(note["skipped"]))


def _note(path: Path) -> dict[str, Any]:
    """What a part says of itself; nothing where there is none. Parts are written whole, so a torn one is no part."""
    try:
        with np.load(path) as held:
            return json.loads(held["note"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def scan_shard(job: Job, features: Features) -> Part:
    """Read one shard. Raises DataError for what cannot be used, unless the job's `on_bad` skips; see `BadData`."""
    return _Scan(job, features).run()


class _Scan:
    """The lists that become a part."""

    def __init__(self, job: Job, features: Features) -> None:
        self.job, self.features, self.bad = job, features, BadData(job.on_bad)
        self.crc32c: Any = require("google_crc32c", "data").value
        self.rows: list[NDArray[Any]] = []
        self.episodes: list[tuple[int, ...]] = []
        self.runs: list[tuple[int, int, int]] = []
        self.words = bytearray()
        self.known: dict[str, int] = {}
        self.count = 0

    def run(self) -> Part:
        """Read to the end."""
        job, found = self.job, 0
        try:
            if not Path(job.path).is_file():
                raise DataError(f"the shard {job.path} is missing; fetch it")
            for record in read_records(job.path, bad=self.bad):
                found = record.number + 1
                if record.number >= job.episodes:
                    break
                try:
                    self.add(record)
                except DataError as error:
                    self.bad.report(error)
        except DataError as error:
            self.bad.report(error)
        if found != job.episodes and not self.bad.skipped:
            more = "more than" if found > job.episodes else f"{found} instead of"
            self.bad.report(
                DataError(
                    f"{job.path} holds {more} the {job.episodes} episodes that {INFO_FILE} says; the files are from "
                    "different versions or incomplete, fetch the data set again"
                )
            )
        return self.part()

    def part(self) -> Part:
        """What was read so far."""
        empty = row_dtype(len(self.job.views), 0, 0)
        return Part(
            np.concatenate(self.rows) if self.rows else np.empty(0, empty),
            np.frombuffer(bytes(self.words), np.uint8),
            np.array(self.episodes, EPISODE),
            np.array(self.runs, RUN),
            self.bad.skipped,
        )

    def add(self, record: Record) -> None:
        """Take one episode in, whole or not at all."""
        stored = parse_example(record.payload, record.source)
        raw = decode_steps(self.features.steps.values(), stored, record.source)
        if not len(next(iter(raw.values()), ())):
            raise DataError(f"{record.source} is an episode without steps; drop it, or skip bad episodes")
        try:
            steps = standardize(self.job.dataset, raw)
        except DataError as error:
            raise DataError(f"{record.source}: {error}") from error
        rows = self.table(record, stored, steps)
        said = np.array([bool(words.strip()) for words in steps["language_instruction"]])
        rows["words"] = [self.place(words) for words in steps["language_instruction"]]
        job = self.job
        for start, stop in _runs(said):
            self.runs.append((self.count + start, self.count + stop, len(self.episodes)))
        self.episodes.append((self.count, job.before + record.number, job.shard, record.number, record.offset))
        self.rows.append(rows)
        self.count += len(rows)

    def table(self, record: Record, stored: Mapping[str, Value], steps: StandardSteps) -> NDArray[Any]:
        """The rows of one episode, without the words."""
        where = f"{record.source}: {find_record(self.job.dataset).name}"
        action = as_rows(steps["action"], f"{where} action")
        proprio = as_rows(steps["proprio"], f"{where} proprio")
        rows = np.zeros(len(action), row_dtype(len(self.job.views), action.shape[1], proprio.shape[1]))
        rows["action"], rows["proprio"] = action, proprio
        rows["step"], rows["shard"] = steps["step"], self.job.shard
        for view, (name, key) in enumerate(self.job.views):
            spans = self.spans(record, stored, key)
            size = _declared(self.features, key)
            for row, step in enumerate(steps["step"].tolist()):
                start, stop = spans[step]
                image = record.payload[start:stop]
                at = f"{record.source}: {name} image {key!r} at step {step}, byte {record.payload_offset + start},"
                size = _check_size(image, size, at)
                rows["offset"][row, view] = record.payload_offset + start
                rows["length"][row, view] = stop - start
                rows["crc"][row, view] = self.crc32c(image)
        return rows

    def spans(self, record: Record, stored: Mapping[str, Value], key: str) -> tuple[tuple[int, int], ...]:
        """Byte ranges in the payload of the images `key`."""
        cameras = [name for name, leaf in self.features.steps.items() if isinstance(leaf.feature, Image)]
        if key not in cameras:
            raise DataError(f"{record.source}: {unknown(key, cameras, 'image')}")
        held = stored.get(self.features.steps[key].key)
        return held.spans if isinstance(held, BytesList) else ()

    def place(self, words: str) -> int:
        """Where `words` are written: equal ones once, each as its length in 4 bytes and its UTF-8."""
        if words not in self.known:
            self.known[words] = len(self.words)
            text = words.encode()
            self.words += len(text).to_bytes(4, "little") + text
        return self.known[words]


def _declared(features: Features, key: str) -> tuple[int, int] | None:
    """(height, width) that features.json promises for the images `key`, or None."""
    height, width, _ = cast("Image", features.steps[key].feature).shape
    return None if height is None or width is None else (height, width)


def _check_size(image: bytes, size: tuple[int, int] | None, at: str) -> tuple[int, int]:
    found = image_size(image, at)
    if size is not None and found != size:
        raise DataError(
            f"{at} is {found[0]}x{found[1]} pixels where {size[0]}x{size[1]} are promised or come before it; "
            "record all images of a camera alike"
        )
    return found


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, stop) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
