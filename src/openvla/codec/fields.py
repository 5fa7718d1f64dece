"""Strict reading of small JSON documents: every field present, known and of its type, or a sentence that names it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from openvla.errors import CheckpointError, unknown
from openvla.files import read_json

RESTORE = "restore the original file of the checkpoint"


@dataclass(frozen=True)
class Kind:
    """A type of JSON value: how an error calls it, and the test for it."""

    name: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


TEXT = Kind("text", lambda value: isinstance(value, str))
INTEGER = Kind("an integer", _is_integer)
NUMBER = Kind("a finite number", _is_number)
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def nullable(kind: Kind) -> Kind:
    """`kind` or null."""
    return Kind(f"{kind.name} or null", lambda value: value is None or kind.holds(value))


def list_of(kind: Kind, length: int | None = None) -> Kind:
    """A list of `kind`, of any length or of exactly `length`."""
    name = f"a list of {'' if length is None else f'{length} times '}{kind.name}"
    return Kind(
        name,
        lambda value: (
            isinstance(value, list)
            and (length is None or len(cast("list[Any]", value)) == length)
            and all(map(kind.holds, cast("list[Any]", value)))
        ),
    )


def exact_fields(
    document: object, kinds: Mapping[str, Kind], where: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of `document`, which must be those of `kinds` and no others; absent ones come from `defaults`.

    where: names the document in errors. Raises CheckpointError.
    """
    fields = some_fields(document, kinds, where, defaults)
    for name in cast("dict[str, Any]", document):
        if name not in kinds:
            raise CheckpointError(f"{where}: {unknown(name, kinds, 'field')}")
    return fields


def some_fields(
    document: object, kinds: Mapping[str, Kind], where: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of `document` named in `kinds`; others are left alone, absent ones come from `defaults`.

    Raises CheckpointError.
    """
    if not isinstance(document, Mapping):
        raise CheckpointError(f"{where} holds a {type(document).__name__}, not an object; restore the original file")
    fields = dict(defaults or {}) | dict(cast("Mapping[str, Any]", document))
    for name, kind in kinds.items():
        if name not in fields:
            raise CheckpointError(f"{where} lacks the field {name!r}, which must be {kind.name}; restore it")
        if not kind.holds(fields[name]):
            raise CheckpointError(f"{where}: field {name!r} is {fields[name]!r}, but must be {kind.name}; correct it")
    return {name: fields[name] for name in kinds}


def read_object(path: Path) -> dict[str, Any]:
    """The object in `path`. Raises CheckpointError if it cannot be read, is not JSON or holds something else."""
    document = read_json(path, CheckpointError, RESTORE)
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds a {type(document).__name__}, not an object; restore the original file")
    return cast("dict[str, Any]", document)
