"""What one set of actions is like, for a comparison: statistics, and as much as is known of their meaning.

A profile is read from a data set of any format, from a `dataset_statistics.json`, or from a checkpoint directory,
which also knows its control rate and its gripper.

Shapes: A action dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.codec.document import read_codec
from openvla.codec.statistics import DatasetStatistics, FieldStatistics, compute, load_statistics, select
from openvla.data.formats.detect import open_source
from openvla.data.registry.find import DATASETS, find_record, named_or_own
from openvla.data.registry.record import DataRecord, StateEncoding
from openvla.data.statistics import Trajectory, dataset_trajectories
from openvla.errors import DataError, UsageError
from openvla.files import read_json
from openvla.spec import ActionSpec, conventional_spec

STATISTICS_FILE, CODEC_FILE = "dataset_statistics.json", "codec.json"
POSE_DIMENSIONS = {StateEncoding.POS_EULER: 6, StateEncoding.POS_QUAT: 3}
"""How many leading numbers of the proprioception say where the end effector is, as the action moves it."""


@dataclass(frozen=True, eq=False)
class Profile:
    """One side of a comparison.

    name: as the user called it. spec: names, rate and gripper; a rate of 0 and a gripper "none" are unknown.
    start: mean of the last dimension at the first steps, NaN where unknown: robots mostly begin with an open gripper.
    follows: correlation (A,) of each action with the motion of the robot that it leads to; NaN where unknown.
    """

    name: str
    statistics: FieldStatistics
    spec: ActionSpec
    follows: NDArray[np.float64]
    start: float = math.nan


def load_profile(
    place: str,
    dataset: str | None = None,
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    workers: int = 1,
) -> Profile:
    """Read `place`: a path, or PATH:NAME with the name of the statistics or of the data set's record.

    dataset: the name where `place` has none. progress, workers: as for `dataset_statistics`.
    Raises DataError, CheckpointError or UsageError as the files demand.
    """
    path, name = _split(place, dataset)
    if path.is_file() and path.suffix == ".json":
        return _from_file(place, path, name, None)
    if _is_checkpoint(path):
        codec = path / CODEC_FILE
        spec = read_codec(codec)["action"] if codec.is_file() else None
        return _from_file(place, path / STATISTICS_FILE, name, spec)
    dataset = named_or_own(name, open_source(path).name)
    record = find_record(dataset)
    trajectories = list(dataset_trajectories(path, dataset, "all", progress=progress, workers=workers))
    statistics = compute(trajectories, record.mask).action
    start = float(np.mean([action[0, -1] for action, _ in trajectories if len(action)]))
    return Profile(place, statistics, record.action, _follows(trajectories, record), start)


def _is_checkpoint(path: Path) -> bool:
    """Statistics without data beside them; published training leaves some in the data's own directory."""
    return (path / STATISTICS_FILE).is_file() and not (*path.glob("dataset_info.json"), *path.glob("*/*info.json"))


def _split(place: str, dataset: str | None) -> tuple[Path, str | None]:
    path, colon, name = place.partition(":")
    if colon and not Path(place).exists():
        return Path(path), name
    return Path(place), dataset


def _from_file(place: str, path: Path, name: str | None, spec: ActionSpec | None) -> Profile:
    table = _table(path, name)
    try:
        statistics = select(table, name).action
    except UsageError as error:
        raise UsageError(f"{path}: {error}; write {path}:NAME") from error
    key = name if name is not None else next(iter(table))
    if spec is None or spec.dim != statistics.dim:
        known = DATASETS.get(key)
        fits = known is not None and known.action.dim == statistics.dim
        spec = known.action if known is not None and fits else conventional_spec(statistics.dim)
    return Profile(place, statistics, spec, np.full(statistics.dim, np.nan))


def _table(path: Path, name: str | None) -> Mapping[str, DatasetStatistics]:
    """The statistics in a file: of many data sets by name, or, as published training caches them, of one without."""
    raw = read_json(path, DataError, "compute the statistics again")
    if isinstance(raw, dict) and "action" in raw:
        return {name or path.stem: DatasetStatistics.from_dict(cast("object", raw), str(path))}
    return load_statistics(path)


def _follows(trajectories: list[Trajectory], record: DataRecord) -> NDArray[np.float64]:
    """How each action goes with the change of the pose that follows; NaN where nothing moves or nothing is known."""
    result = np.full(record.action.dim, np.nan)
    pairs = [(a[:-1], np.diff(p, axis=0)) for a, p in trajectories if p is not None and len(a) > 1]
    if record.absolute[0] or not pairs:
        return result
    action, moved = (np.concatenate(each).astype(np.float64) for each in zip(*pairs, strict=True))
    for n in range(min(POSE_DIMENSIONS.get(record.state_encoding, 0), record.action.dim, moved.shape[1])):
        if np.ptp(action[:, n]) > 0 and np.ptp(moved[:, n]) > 0:
            result[n] = np.corrcoef(action[:, n], moved[:, n])[0, 1]
    return result
