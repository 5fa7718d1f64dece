"""`openvla data stats`: the statistics that normalise a data set or a mixture, and whether two sets are compatible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from openvla.cli.output import Result, table
from openvla.errors import UsageError

if TYPE_CHECKING:
    from openvla.codec.statistics import DatasetStatistics
    from openvla.data.bad import BadData


@dataclass(frozen=True)
class Options:
    """Compute mean, deviation, range and 1 % and 99 % quantiles of a data set's actions and robot states.

    The JSON is the content of a `dataset_statistics.json`. With --compare, say whether two sets mean the same by their
    actions.
    """

    directory: Annotated[Path | None, tyro.conf.Positional] = None
    """A data set: for RLDS its version directory or the one above; with --mixture the directory of its data sets."""
    dataset: str | None = None
    """Which record applies: a name, e.g. bridge_orig, or FILE.py:NAME; the data set's own name where omitted."""
    mixture: str | None = None
    """A mixture, e.g. bridge_rt_1, or data sets with weights, e.g. bridge_orig=1.0,kuka=0.5."""
    compare: tuple[str, ...] = ()
    """Two data sets, dataset_statistics.json files or checkpoints; PATH:NAME picks one of several."""
    split: str = "all"
    """What to read: a split's name, a slice such as "train[:95%]", or "all", as published."""
    workers: int = 1
    """Processes that read side by side; the result is the same for any number."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with an episode that cannot be used: stop, or leave it out and list it."""
    output: Path | None = None
    """Write the statistics to this file, too."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Compute statistics, or compare."""
    if options.compare:
        return _compare(options)
    from openvla.codec.statistics import save_statistics
    from openvla.data.bad import BadData

    bad = BadData(options.on_bad)
    statistics = _statistics(options, bad)
    if options.output is not None:
        save_statistics(options.output, statistics)
    text = "\n\n".join(_readable(name, each) for name, each in statistics.items())
    text = "\n\n".join(filter(None, [text, bad.summary()]))
    return Result({name: each.to_dict() for name, each in statistics.items()}, text)


def _statistics(options: Options, bad: BadData) -> Mapping[str, DatasetStatistics]:
    if options.directory is None:
        raise UsageError("which data set? name its directory, or two with --compare")
    if options.mixture is not None:
        from openvla.data.registry.mixtures import mixture
        from openvla.data.statistics import mixture_statistics

        if options.dataset is not None:
            raise UsageError("--mixture names its data sets itself; leave --dataset out")
        entries = mixture(options.mixture)
        return mixture_statistics(
            options.directory, entries, options.split, progress=_bar(), workers=options.workers, bad=bad
        )
    from openvla.data.formats.detect import open_source
    from openvla.data.registry.find import find_record, named_or_own
    from openvla.data.statistics import dataset_statistics

    dataset = named_or_own(options.dataset, open_source(options.directory).name)
    statistics = dataset_statistics(
        options.directory, dataset, options.split, progress=_bar(), workers=options.workers, bad=bad
    )
    return {find_record(dataset).name: statistics}


def _compare(options: Options) -> Result:
    from openvla.data.compatibility.compare import compare
    from openvla.data.compatibility.profiles import load_profile

    if options.directory is not None or options.mixture is not None:
        raise UsageError("--compare takes the two sets that follow it; leave the directory and --mixture out")
    if len(options.compare) != 2:
        raise UsageError(f"--compare takes two sets, not {len(options.compare)}; name both after it")
    first, second = (
        load_profile(place, options.dataset, progress=_bar(), workers=options.workers) for place in options.compare
    )
    comparison = compare(first, second)
    return Result(comparison.to_dict(), comparison.text)


def _bar() -> Callable[[Iterable[Any]], Iterable[Any]]:
    from tqdm import tqdm

    return partial(tqdm, unit="episode", desc="reading", leave=False)


def _readable(name: str, statistics: DatasetStatistics) -> str:
    rows: list[tuple[object, ...]] = []
    for field, values in (("action", statistics.action), ("proprio", statistics.proprio)):
        if values is None:
            continue
        columns = (values.mean, values.std, values.min, values.q01, values.q99, values.max)
        rows += [(field, n, *(f"{value:.5g}" for value in row)) for n, row in enumerate(zip(*columns, strict=True))]
    counts = f"{name}: {statistics.num_trajectories} episodes, {statistics.num_transitions} steps"
    return counts + "\n\n" + table(("field", "dimension", "mean", "std", "min", "q01", "q99", "max"), rows)
