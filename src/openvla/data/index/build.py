"""Making an index: shards are scanned side by side into parts, and the parts are put one after another.

Every part is written as soon as its shard is done, beside the index, so that a run that was killed continues with the
shards that are left. The index appears whole or not at all, and takes its parts' place. One part at a time is held.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from openvla.data.index.index import HEADER, Header
from openvla.data.index.place import Origin
from openvla.data.index.scan import Job, Part, scan_shard
from openvla.data.loading.workers import processes
from openvla.data.registry.find import DATASETS, find_record
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.features import Features
from openvla.data.tfds.info import DatasetInfo
from openvla.errors import DataError
from openvla.files import new_directory, new_file
from openvla.sim.workers import each

PARTS = ".parts"
TABLES = ("rows", "words", "episodes", "runs")


@dataclass(frozen=True)
class Building:
    """One index to be made at `home`. on_bad: "raise" or "skip", for what cannot be used."""

    info: DatasetInfo
    origin: Origin
    dataset: str | DataRecord
    home: Path
    on_bad: str

    def run(self, workers: int) -> None:
        """Scan what has no part yet in `workers` processes, and join the parts. Raises DataError."""
        if self.home.exists() and any(self.home.iterdir()) and not (self.home / HEADER).is_file():
            raise DataError(f"{self.home} holds something that is no index; choose another place")
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot create {self.parts}: {error.strerror or error}; choose another place") from error
        jobs = self.jobs()
        todo = [job for job in jobs if not Part.fits(self.part(job), job.stamp)]
        workers = max(1, min(workers, len(todo))) if self.is_named else 1
        bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="shard", desc="indexing", file=sys.stderr)
        with bar, processes(workers, _know, (self.info.features, self.parts)) as pool:
            for _ in each(pool, _scan, todo):
                bar.update()
        if self.home.exists():
            shutil.rmtree(self.home)
        with new_directory(self.home, DataError) as place:
            self.join(jobs, place)
        shutil.rmtree(self.parts)

    @property
    def parts(self) -> Path:
        """Where the parts lie until the index is whole."""
        return self.home.with_name(self.home.name + PARTS)

    def part(self, job: Job) -> Path:
        """The part of one shard."""
        return _part(self.parts, job)

    @property
    def is_named(self) -> bool:
        """Whether worker processes can find the record by what it is called."""
        return isinstance(self.dataset, str) or DATASETS.get(self.dataset.name) is self.dataset

    def jobs(self) -> list[Job]:
        """One for each shard, in order."""
        record = find_record(self.dataset)
        dataset = record.name if self.is_named and not isinstance(self.dataset, str) else self.dataset
        before: dict[str, int] = {}
        jobs: list[Job] = []
        for number, shard in enumerate(self.origin.shards):
            first = before.get(shard["split"], 0)
            before[shard["split"]] = first + shard["episodes"]
            jobs.append(
                Job(
                    dataset=dataset,
                    views=tuple(record.images.items()),
                    path=str(self.info.directory.resolve() / shard["file"]),
                    shard=number,
                    episodes=shard["episodes"],
                    before=first,
                    stamp=f"{self.on_bad} {self.origin.stamp(number)}",
                    on_bad=self.on_bad,
                )
            )
        return jobs

    def join(self, jobs: list[Job], place: Path) -> None:
        """Write the index of all parts into `place`."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(new_file(place / f"{name}.bin")) for name in TABLES}
            sums = _Sums(files)
            for job in jobs:
                part = Part.load(self.part(job), job.stamp)
                if part is None:
                    raise DataError(f"the part of {job.path} has vanished from {self.parts}; index again")
                sums.append(part, job)
        action, proprio = sums.dims or (0, 0)
        header = Header(
            data=str(self.info.directory.resolve()),
            name=self.info.name,
            views=tuple(find_record(self.dataset).images),
            action_dim=action,
            proprio_dim=proprio,
            episodes=sums.counts["episodes"],
            runs=sums.counts["runs"],
            rows=sums.counts["rows"],
            word_bytes=sums.counts["words"],
            skipped=tuple(sums.skipped),
            origin=self.origin,
        )
        (place / HEADER).write_text(header.to_json())


@dataclass
class _Sums:
    """The files of an index that grows, and how much is in them."""

    files: dict[str, BinaryIO]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    skipped: list[str] = field(default_factory=list[str])
    dims: tuple[int, int] | None = None

    def append(self, part: Part, job: Job) -> None:
        """Add one part; what counted from zero in it counts on."""
        self.skipped += part.skipped
        if not len(part.rows):
            return
        dims = (part.rows.dtype["action"].shape[0], part.rows.dtype["proprio"].shape[0])
        if self.dims not in (None, dims):
            raise DataError(f"{job.path} has actions and states of {dims} dimensions, the shards before it {self.dims}")
        self.dims = dims
        part.rows["words"] += self.counts["words"]
        part.episodes["row"] += self.counts["rows"]
        part.runs["start"] += self.counts["rows"]
        part.runs["stop"] += self.counts["rows"]
        part.runs["episode"] += self.counts["episodes"]
        for name, file in self.files.items():
            table = getattr(part, name)
            file.write(table.tobytes())
            self.counts[name] += len(table)


_known: dict[str, Any] = {}


def _know(features: Features, parts: Path) -> None:
    _known.update(features=features, parts=parts)


def _scan(job: Job) -> None:
    """In a worker: scan one shard and write its part."""
    scan_shard(job, _known["features"]).save(_part(_known["parts"], job), job.stamp)


def _part(parts: Path, job: Job) -> Path:
    return parts / f"{job.shard:06d}.npz"
