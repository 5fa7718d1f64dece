"""`openvla data stats`: the statistics that normalise a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openvla.cli.output import Result, table

if TYPE_CHECKING:
    from openvla.codec.statistics import DatasetStatistics


@dataclass(frozen=True)
class Options:
    """Compute mean, deviation, range and 1 % and 99 % quantiles of a data set's actions and robot states.

    The JSON is the content of a `dataset_statistics.json`.
    """

    directory: Annotated[Path, tyro.conf.Positional]
    """An RLDS data set: its version directory or the one above."""
    dataset: str | None = None
    """Which standardisation applies, e.g. bridge_orig; the data set's own name where omitted."""
    split: str = "all"
    """What to read: a split's name, a slice such as "train[:95%]", or "all", as published."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Read, standardise and compute; hand back the statistics under the data set's name."""
    from openvla.data.info import DatasetInfo
    from openvla.data.statistics import dataset_statistics

    name = options.dataset or DatasetInfo.load(options.directory).name
    statistics = dataset_statistics(options.directory, name, options.split)
    return Result({name: statistics.to_dict()}, _readable(name, statistics))


def _readable(name: str, statistics: DatasetStatistics) -> str:
    rows: list[tuple[object, ...]] = []
    for field, values in (("action", statistics.action), ("proprio", statistics.proprio)):
        if values is None:
            continue
        columns = (values.mean, values.std, values.min, values.q01, values.q99, values.max)
        rows += [(field, n, *(f"{value:.5g}" for value in row)) for n, row in enumerate(zip(*columns, strict=True))]
    counts = f"{name}: {statistics.num_trajectories} episodes, {statistics.num_transitions} steps"
    return counts + "\n\n" + table(("field", "dimension", "mean", "std", "min", "q01", "q99", "max"), rows)
