"""Statistics of data sets on disk, as published: over all splits, after standardisation, unfiltered.

Exact quantiles need every value at once, so worker processes only read and standardise; their rows come back in the
order of the episodes and are reduced here. The result is the same, bit for bit, for any number of workers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.codec.statistics import DatasetStatistics, as_rows, compute
from openvla.data.bad import BadData
from openvla.data.episode import Episode
from openvla.data.formats.detect import open_source
from openvla.data.formats.splits import select
from openvla.data.loading.workers import processes
from openvla.data.registry.find import find_record
from openvla.data.registry.mixtures import MixtureEntry
from openvla.data.registry.record import DataRecord
from openvla.data.standardize import standardize
from openvla.errors import DataError, UsageError
from openvla.sim.workers import each

Rows = NDArray[np.float32]
Trajectory = tuple[Rows, Rows | None]
JOBS_PER_WORKER = 4
"""Parts of the data that a worker reads in turn; more even out what takes longer, and cost a scan each."""


@dataclass(frozen=True)
class Counted:
    """An iterator that knows how many items to expect, as a progress bar wants to."""

    items: Iterable[Any]
    total: int

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return self.total


def dataset_statistics(
    directory: str | Path,
    dataset: str | DataRecord,
    split: str | None = None,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    workers: int = 1,
    bad: BadData | None = None,
) -> DatasetStatistics:
    """Read, standardise as `dataset` and compute; `split` None takes all splits, as the published code does.

    directory: a data set of any format. `progress` wraps an iterator with one item per episode, e.g. `tqdm`.
    bad: what to do with episodes that cannot be used, and the account of it.
    Raises DataError for what cannot be read, and for NaN or infinity, naming the episode and the step; UsageError for
    an unknown data set.
    """
    record = find_record(dataset)
    every = split or "all"
    trajectories = dataset_trajectories(directory, dataset, every, progress=progress, workers=workers, bad=bad)
    return compute(trajectories, mask=record.mask)


def mixture_statistics(
    root: str | Path,
    entries: Sequence[MixtureEntry],
    split: str | None = None,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    workers: int = 1,
    bad: BadData | None = None,
) -> dict[str, DatasetStatistics]:
    """The statistics of each data set of a mixture, by name: what a checkpoint trained on it holds.

    Each data set lies in the directory of its name below `root`. Raises DataError where one is missing, before any
    is read, and as `dataset_statistics`.
    """
    missing = [entry.name for entry in entries if not (Path(root) / entry.name).exists()]
    if missing:
        raise DataError(f"{root} lacks {len(missing)} data sets of the mixture: {', '.join(missing)}; fetch them")
    return {
        entry.name: dataset_statistics(
            Path(root) / entry.name, entry.record, split, progress=progress, workers=workers, bad=bad
        )
        for entry in entries
    }


def read_trajectories(
    episodes: Iterable[Episode], record: DataRecord, bad: BadData | None = None
) -> Iterator[Trajectory]:
    """Standardised actions (T, A) and proprioception (T, P), None where the record has none; checked for NaN."""
    return (bad or BadData()).good(partial(_trajectory, episode, record) for episode in episodes)


def _trajectory(episode: Episode, record: DataRecord) -> Trajectory:
    steps = standardize(record, episode.steps)
    return (
        as_rows(steps["action"], f"{episode.source}: {record.name} action"),
        as_rows(steps["proprio"], f"{episode.source}: {record.name} proprio") if record.proprio else None,
    )


def dataset_trajectories(
    directory: str | Path,
    dataset: str | DataRecord,
    split: str,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    workers: int = 1,
    bad: BadData | None = None,
) -> Iterator[Trajectory]:
    """The standardised trajectories of a data set in the order of its episodes. As `dataset_statistics`."""
    source = open_source(directory)
    chosen = select(split, source.splits, str(directory))
    total = sum(len(episodes) for _, episodes in chosen)
    bad = bad or BadData()
    if workers == 1:
        episodes = progress(Counted(source.episodes(split, bad), total))
        yield from read_trajectories(episodes, find_record(dataset), bad)
        return
    _check_sendable(dataset)
    jobs = [(directory, dataset, part, bad.mode) for part in _parts(chosen, max(1, workers * JOBS_PER_WORKER))]
    with processes(workers) as pool:
        yield from progress(Counted(_joined(each(pool, _read_part, jobs), bad), total))


def _joined(parts: Iterable[tuple[list[Trajectory], list[str]]], bad: BadData) -> Iterator[Trajectory]:
    """The trajectories of all parts; what was left out is reported once, though parts of one file may both meet it."""
    for trajectories, skipped in parts:
        for sentence in skipped:
            if sentence not in bad.skipped:
                bad.report(DataError(sentence))
        yield from trajectories


def _read_part(job: tuple[str | Path, str | DataRecord, str, str]) -> tuple[list[Trajectory], list[str]]:
    directory, dataset, part, mode = job
    bad = BadData(mode, quiet=True)
    trajectories = read_trajectories(open_source(directory).episodes(part, bad), find_record(dataset), bad)
    return list(trajectories), bad.skipped


def _parts(chosen: Sequence[tuple[str, range]], count: int) -> list[str]:
    """About `count` sub-splits that together are what was chosen, in order."""
    size = max(1, -(-sum(len(episodes) for _, episodes in chosen) // count))
    return [
        f"{name}[{start}:{min(start + size, episodes.stop)}]"
        for name, episodes in chosen
        for start in range(episodes.start, episodes.stop, size)
    ]


def _check_sendable(dataset: str | DataRecord) -> None:
    try:
        pickle.dumps(dataset)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the record cannot be sent to worker processes ({error}); write its functions at the top of a file and "
            "name it FILE.py:NAME, or use one worker"
        ) from error
