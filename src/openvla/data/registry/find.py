"""The data sets that are known, by name, and how a record is found: by its name, or in a file of your own."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from openvla.data.registry.arms import ARMS
from openvla.data.registry.franka import FRANKA
from openvla.data.registry.mobile import MOBILE
from openvla.data.registry.record import DataRecord
from openvla.data.registry.simulated import SIMULATED
from openvla.errors import UsageError, lookup, unknown

DATASETS: dict[str, DataRecord] = {
    name: dataclasses.replace(record, name=name)
    for name, record in sorted({**ARMS, **FRANKA, **MOBILE, **SIMULATED}.items())
}

FILE_SUFFIX = ".py"


@dataclass(frozen=True, eq=False)
class FileRecord(DataRecord):
    """A record of a user's file. A worker process finds it there anew, since it may hold functions of that file."""

    reference: str = ""

    def __reduce__(self) -> tuple[Callable[[str], DataRecord], tuple[str]]:
        return find_record, (self.reference,)


def find_record(dataset: str | DataRecord) -> DataRecord:
    """The record that `dataset` means: a name in `DATASETS`, a file with a record's name ("my_file.py:MINE"), itself.

    A record of a file is called as the file calls it, unless it names itself. Raises UsageError, with the nearest
    names, for a name or file that does not exist and for a file that does not run.
    """
    if isinstance(dataset, DataRecord):
        return dataset if dataset.name else dataclasses.replace(dataset, name="dataset")
    path, colon, name = dataset.rpartition(":")
    if dataset.endswith(FILE_SUFFIX):
        path, colon, name = dataset, ":", ""
    if not (colon and path.endswith(FILE_SUFFIX)):
        return lookup(dataset, DATASETS, "data set")
    return _from_file(Path(path), name)


def named_or_own(named: str | None, own: str) -> str:
    """Which record applies to data that call themselves `own`: the one that is `named`, else the one of that name.

    Raises UsageError where none is named and none is called so.
    """
    if named is None and own not in DATASETS:
        raise UsageError(
            f"these data call themselves {own!r}, which no record of the registry is called; say what their actions "
            "are with --dataset NAME, e.g. bridge_orig, or --dataset FILE.py:NAME"
        )
    return own if named is None else named


def _from_file(path: Path, name: str) -> DataRecord:
    names = vars(_module(path.absolute()))
    held = {key: value for key, value in names.items() if isinstance(value, DataRecord)}
    if not name:
        raise UsageError(f"{path} holds data sets, but which? write {path}:NAME; it has {', '.join(held) or 'none'}")
    if name in names and name not in held:
        raise UsageError(f"{path}: {name} is a {type(names[name]).__name__}; a data set must be a DataRecord")
    if name not in held:
        raise UsageError(f"{path}: {unknown(name, held, 'data set')}")
    values: dict[str, Any] = {field.name: getattr(held[name], field.name) for field in dataclasses.fields(DataRecord)}
    values |= {"name": held[name].name or name, "reference": f"{path.absolute()}:{name}"}
    return FileRecord(**values)


@cache
def _module(path: Path) -> ModuleType:
    """The file as a module, run once."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}; a data set of your own is given as FILE.py:NAME")
    name = f"openvla_dataset_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be loaded as Python; a data set of your own is given as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code: anything may happen
        del sys.modules[name]
        raise UsageError(f"{path} does not run: {type(error).__name__}: {error}; correct the file") from error
    return module
