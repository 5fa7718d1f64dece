"""Dataset statistics in memory and on disk: the published `dataset_statistics.json`, read strictly and written whole.

    {dataset: {"action": {mean, std, max, min, q01, q99: [float x A], "mask": [bool x A]}, "proprio": {...},
               "num_transitions": int, "num_trajectories": int}}

The mask, proprio and the counts may be missing, as they are in some published files.
Shapes: A action dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import DataError
from openvla.files import read_json, write_text

FLOAT_FIELDS = ("mean", "std", "max", "min", "q01", "q99")


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """Per-dimension statistics of one field (action or proprio), each float64 (dim,).

    mean, std (population), max, min: moments and range.
    q01, q99: 1st and 99th percentile; they are mapped to -1 and 1.
    mask: bool (dim,), False where values are left as they are; None means all True.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    max: NDArray[np.float64]
    min: NDArray[np.float64]
    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.mean)

    @property
    def normalized(self) -> NDArray[np.bool_]:
        """The mask, bool (dim,), with None spelled out as all True."""
        return np.ones(self.dim, bool) if self.mask is None else self.mask

    @classmethod
    def from_dict(cls, raw: object, what: str) -> FieldStatistics:
        """Read the published form `{"mean": [...], ..., "mask": [...]}`; `what` names it in errors (DataError)."""
        if not isinstance(raw, Mapping):
            raise DataError(f"{what} is {raw!r}, not an object with {', '.join(FLOAT_FIELDS)}")
        table = cast("Mapping[str, object]", raw)
        fields = {name: _floats(table, name, what) for name in FLOAT_FIELDS}
        sizes = {name: len(values) for name, values in fields.items()}
        mask = _mask(table.get("mask"), what)
        if mask is not None:
            sizes["mask"] = len(mask)
        if len(set(sizes.values())) != 1:
            raise DataError(f"{what} has fields of different lengths: {sizes}; each needs one entry per dimension")
        if np.any(fields["q01"] > fields["q99"]):
            at = int(np.argmax(fields["q01"] > fields["q99"]))
            raise DataError(
                f"{what} has q01 {fields['q01'][at]} above q99 {fields['q99'][at]} in dimension {at}; recompute it"
            )
        return cls(**fields, mask=mask)

    def to_dict(self) -> dict[str, list[float] | list[bool]]:
        """The published form; `mask` is left out where it is None."""
        table: dict[str, list[float] | list[bool]] = {name: getattr(self, name).tolist() for name in FLOAT_FIELDS}
        if self.mask is not None:
            table["mask"] = self.mask.tolist()
        return table


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """What the published `dataset_statistics.json` holds for one dataset; counts are 0 where a file lacks them."""

    action: FieldStatistics
    proprio: FieldStatistics | None = None
    num_transitions: int = 0
    num_trajectories: int = 0

    @classmethod
    def from_dict(cls, raw: object, what: str = "the statistics") -> DatasetStatistics:
        """Read one dataset's entry; `proprio`, the mask and the counts may be missing. Raises DataError."""
        if not isinstance(raw, Mapping) or "action" not in raw:
            raise DataError(
                f"{what} has no 'action' entry; a statistics file maps each dataset to action, proprio, ..."
            )
        table = cast("Mapping[str, object]", raw)
        proprio = table.get("proprio")
        return cls(
            action=FieldStatistics.from_dict(table["action"], f"{what}, field 'action',"),
            proprio=None if proprio is None else FieldStatistics.from_dict(proprio, f"{what}, field 'proprio',"),
            num_transitions=_count(table, "num_transitions", what),
            num_trajectories=_count(table, "num_trajectories", what),
        )

    def to_dict(self) -> dict[str, Any]:
        """The published form; `proprio` is left out where it is None."""
        table: dict[str, Any] = {"action": self.action.to_dict()}
        if self.proprio is not None:
            table["proprio"] = self.proprio.to_dict()
        return table | {"num_transitions": self.num_transitions, "num_trajectories": self.num_trajectories}


def load_statistics(path: str | Path) -> dict[str, DatasetStatistics]:
    """Read a published `dataset_statistics.json`: dataset name -> statistics. Raises DataError."""
    raw = read_json(Path(path), DataError, "restore the statistics file or compute it again")
    if not isinstance(raw, dict):
        raise DataError(f"{path} holds a {type(raw).__name__}, not an object that maps dataset names to statistics")
    table = cast("dict[str, object]", raw)
    return {key: DatasetStatistics.from_dict(entry, f"{path}, dataset {key!r},") for key, entry in table.items()}


def save_statistics(path: str | Path, table: Mapping[str, DatasetStatistics]) -> None:
    """Write `table` as a published `dataset_statistics.json`; the file appears whole or not at all."""
    content = {key: stats.to_dict() for key, stats in table.items()}
    write_text(Path(path), json.dumps(content, indent=2) + "\n", DataError)


def _floats(table: Mapping[str, object], name: str, what: str) -> NDArray[np.float64]:
    if name not in table:
        raise DataError(f"{what} lacks {name!r}; each field needs {', '.join(FLOAT_FIELDS)}")
    try:
        values = np.asarray(table[name], np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(())
    if values.ndim != 1 or not len(values):
        raise DataError(f"{what} has {name!r} = {table[name]!r}; it must be a list of numbers, one per dimension")
    if not np.isfinite(values).all():
        raise DataError(f"{what} has {name!r} = {values.tolist()}: not finite; compute the statistics again")
    return values


def _mask(raw: object, what: str) -> NDArray[np.bool_] | None:
    if raw is None:
        return None
    if not isinstance(raw, list) or not all(isinstance(flag, bool) for flag in cast("list[object]", raw)):
        raise DataError(f"{what} has 'mask' = {raw!r}; it must be a list of true and false, one per dimension")
    return np.asarray(raw, bool)


def _count(table: Mapping[str, object], name: str, what: str) -> int:
    raw = table.get(name, 0)
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw < 0 or raw % 1:
        raise DataError(f"{what} has {name!r} = {raw!r}; it must be a whole number of at least 0")
    return int(raw)
