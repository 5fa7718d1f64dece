"""Statistics of a data set from its index: those of `data.statistics`, without reading the shards again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla.codec.statistics import DatasetStatistics, compute
from openvla.data.index.index import Index

Rows = NDArray[np.float32]


def index_statistics(index: Index, mask: ArrayLike | None = None) -> DatasetStatistics:
    """Over all splits, unfiltered; episodes that were skipped as unusable do not count. `mask` is bool (A,).

    Raises DataError where there is no step.
    """
    return compute(_trajectories(index), mask=mask)


def _trajectories(index: Index) -> Iterator[tuple[Rows, Rows | None]]:
    edges = np.append(index.episodes["row"], index.header.rows).tolist()
    for start, stop in pairwise(edges):
        rows = index.rows(start, stop)
        yield rows["action"].copy(), rows["proprio"].copy() if index.header.proprio_dim else None
