"""The index of a data set, found or made: the one question that training and the command line ask."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from openvla.data.bad import BadData
from openvla.data.formats.cached import rlds_of
from openvla.data.index.build import Building
from openvla.data.index.index import HEADER, Index
from openvla.data.index.place import Origin, index_home
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.info import DatasetInfo
from openvla.errors import DataError
from openvla.files import cache_home

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """index: the open index. made: whether it was made now. why: what was wrong with the one before, if anything."""

    index: Index
    made: bool
    why: str | None = None


def ensure_index(
    directory: str | Path,
    dataset: str | DataRecord,
    place: Path | None = None,
    *,
    workers: int = 1,
    bad: BadData | None = None,
    again: bool = False,
) -> Found:
    """The index of an RLDS data set, made where there is none that fits the data set as it is now.

    place: directory of the index; None takes the user's cache. workers: processes that scan side by side.
    bad: what to do with what cannot be used, and the account of it. again: make it anew in any case.
    Raises DataError for what cannot be read or used, UsageError for an unknown `dataset`.
    """
    info, bad = DatasetInfo.load(rlds_of(directory)), bad or BadData()
    find_record(dataset)
    origin, home = Origin.of(info, dataset), place or index_home(info, dataset)
    with _alone(home):
        why = "it is to be made again" if again else _misfit(home, info, origin)
        if why is not None:
            if why and not again:
                log.warning("the index %s is stale: %s; making it again", home, why)
            Building(info, origin, dataset, home, bad.mode).run(workers)
    index = Index(home)
    for sentence in index.header.skipped:
        bad.report(DataError(sentence))
    return Found(index, made=why is not None, why=why or None)


def open_index(directory: str | Path, dataset: str | DataRecord, place: Path | None = None) -> Index:
    """The index of a data set, which must exist and fit. Raises DataError saying what to do where it does not."""
    info = DatasetInfo.load(rlds_of(directory))
    home = place or index_home(info, dataset)
    why = _misfit(home, info, Origin.of(info, dataset))
    if why is not None:
        state = f"is stale: {why}" if why else "does not exist"
        raise DataError(f"the index {home} of {info.directory} {state}; run `openvla data index {directory}`")
    return Index(home)


def _misfit(home: Path, info: DatasetInfo, origin: Origin) -> str | None:
    """Why the index at `home` does not serve; "" where there is none, None where it does."""
    if not (home / HEADER).is_file():
        return ""
    try:
        header = Index(home).header
    except DataError as error:
        return str(error)
    if Path(header.data) != info.directory.resolve():
        return f"it was made for {header.data}"
    return origin.difference(header.origin)


@contextlib.contextmanager
def _alone(home: Path) -> Generator[None]:
    """Only one process at a time makes the index at `home`; the ranks of a run wait for the first, and then find it."""
    locks = cache_home() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        file = (locks / hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:16]).open("w")
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {locks}: {error.strerror or error}; set OPENVLA_CACHE to a place that can be"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
