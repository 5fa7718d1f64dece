"""The error taxonomy: every failure a user can cause is one sentence of one of these types.

A message says what is wrong, with the value, then the rule, then the way out. The command line
prints it and exits with code 2; a traceback is always a defect of this package.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


class OpenVLAError(Exception):
    """Base of everything this package raises on purpose. exit_code: of the command that it ends."""

    exit_code = 2


class UsageError(OpenVLAError):
    """A name, flag or combination of flags that does not exist."""


class InputError(OpenVLAError, ValueError):
    """An observation, action or array that breaks the contract of `spec`."""


class CheckpointError(OpenVLAError):
    """A checkpoint directory that is incomplete, damaged or of another architecture."""


class DataError(OpenVLAError):
    """A data set that cannot be read, or whose content breaks its own description."""


class TrainingError(OpenVLAError):
    """A run that cannot start, continue or resume."""


class StoppedError(OpenVLAError):
    """A run that was asked to end (SIGTERM), and did so with its state saved."""

    exit_code = 143  # 128 + SIGTERM, as schedulers expect


class SimulatorError(OpenVLAError):
    """A simulator that is missing, cannot render, or breaks its contract."""


class ServerError(OpenVLAError):
    """A policy server that cannot be reached, refuses a request, or answers what is no action."""


class MissingDependencyError(OpenVLAError, ImportError):
    """An optional package that the called feature needs."""


def lookup(name: str, table: Mapping[str, T], kind: str) -> T:
    """Return `table[name]`, or raise `UsageError` that offers the nearest names.

    >>> lookup("nano", {"nano": 1}, "preset")
    1
    """
    try:
        return table[name]
    except KeyError:
        raise UsageError(unknown(name, table, kind)) from None


def unknown(name: str, known: Iterable[str], kind: str) -> str:
    """The sentence for a name that is not in `known`: nearest names first, else the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {name!r}; known are {', '.join(names) or 'none'}"


def require(package: str, extra: str) -> ModuleType:
    """Import `package`, or say which extra of this project brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise MissingDependencyError(
            f"the Python package {missing!r} is not installed; it comes with `pip install 'openvla[{extra}]'`"
        ) from error
