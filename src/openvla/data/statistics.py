"""Statistics of a data set on disk, as published: over all splits, after standardisation, unfiltered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla.codec.statistics import DatasetStatistics, as_rows, compute
from openvla.data.episode import Episode
from openvla.data.oxe import DATASETS
from openvla.data.rlds import read_episodes
from openvla.data.standardize import standardize
from openvla.errors import lookup


def dataset_statistics(
    directory: str | Path,
    name: str,
    split: str | None = None,
    *,
    progress: Callable[[Iterable[Episode]], Iterable[Episode]] = iter,
) -> DatasetStatistics:
    """Read, standardise as `name` and compute; `split` None takes all splits, as the published code does.

    `progress` wraps the iterator over episodes, e.g. `tqdm`.
    Raises DataError for what cannot be read, and for NaN or infinity, naming the episode and the step.
    """
    record = lookup(name, DATASETS, "data set")
    return compute(_trajectories(progress(read_episodes(directory, split or "all")), name), mask=record.mask)


def _trajectories(episodes: Iterable[Episode], name: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    for episode in episodes:
        steps = standardize(name, episode.steps)
        yield (
            as_rows(steps["action"], f"{episode.source}: {name} action"),
            as_rows(steps["proprio"], f"{episode.source}: {name} proprio"),
        )
