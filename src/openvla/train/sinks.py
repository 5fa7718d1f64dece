"""Where a run writes what it measures: metrics.jsonl always, and whatever else was asked for.

Every line of metrics.jsonl is {"step": int, name: number, ...}; the other sinks get the same numbers under the same
names. A resumed run takes back the lines after its last checkpoint, and writes them again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from openvla.errors import TrainingError, lookup, require
from openvla.files import write_text

METRICS = "metrics.jsonl"


class Sink(Protocol):
    """A place for metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` as of `step` finished steps."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Lines:
    """metrics.jsonl."""

    def __init__(self, output: Path, resumed: int) -> None:
        """Lines that an interrupted run wrote after its last checkpoint, step `resumed`, are dropped."""
        self._path = output / METRICS
        lines = self._path.read_text(encoding="utf-8").splitlines() if resumed and self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= resumed]
        write_text(self._path, "".join(line + "\n" for line in kept), TrainingError)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line. Raises TrainingError where the disk refuses."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise TrainingError(
                f"cannot write {self._path}: {error.strerror or error}; free some space and continue with --resume"
            ) from error

    def close(self) -> None:
        """Every line is in the file already."""


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, output: Path, resumed: int) -> None:
        writer = require("torch.utils.tensorboard.writer", "train").SummaryWriter
        self._board: Any = writer(str(output / "tensorboard"), purge_step=resumed + 1 if resumed else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is buffered."""
        self._board.close()


class Tracker:
    """Weights & Biases, or Trackio, which has the same functions. Account and server are those of its own settings."""

    def __init__(self, package: str, output: Path, config: Mapping[str, Any]) -> None:
        """A resumed run goes on where it was: its identity lies in its directory."""
        self._package: Any = require(package, package)
        path = output / "run-id.txt"
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:8] + "\n", TrainingError)
        identity = path.read_text(encoding="utf-8").strip()
        settings: dict[str, Any] = {"id": identity, "dir": str(output)} if package == "wandb" else {}
        name = f"{output.resolve().name}-{identity}"
        try:
            self._package.init(project="openvla", name=name, config=dict(config), resume="allow", **settings)
        except Exception as error:
            raise TrainingError(
                f"{package} cannot start ({(str(error) or type(error).__name__).splitlines()[0]}); log in to it, or "
                "leave it out of --sinks"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One call for all."""
        self._package.log(dict(values), step=step)

    def close(self) -> None:
        """Upload the rest."""
        self._package.finish()


SINKS: dict[str, Callable[[Path, int, Mapping[str, Any]], Sink]] = {
    "jsonl": lambda output, resumed, _: Lines(output, resumed),
    "tensorboard": lambda output, resumed, _: TensorBoard(output, resumed),
    "wandb": lambda output, _, config: Tracker("wandb", output, config),
    "trackio": lambda output, _, config: Tracker("trackio", output, config),
}

NEEDS = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb"), "trackio": ("trackio", "trackio")}
"""Package of a sink, and the extra that brings it."""


def check_sinks(named: str) -> list[str]:
    """The sinks of a list such as "tensorboard,wandb", metrics.jsonl first and always.

    Raises UsageError for an unknown one, MissingDependencyError where its package is absent.
    """
    names = [word.strip() for word in named.split(",") if word.strip() not in ("", "none")]
    for name in names:
        lookup(name, SINKS, "sink")
        if name in NEEDS:
            require(*NEEDS[name])
    return list(dict.fromkeys(["jsonl", *names]))


class MetricLog:
    """All sinks of one run."""

    def __init__(self, sinks: Sequence[str], output: Path, resumed: int, config: Mapping[str, Any]) -> None:
        """resumed: the step of the checkpoint that the run continues from, or 0."""
        self._sinks = [SINKS[name](output, resumed, config) for name in sinks]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` as of `step` finished steps."""
        for sink in self._sinks:
            sink.write(step, values)

    def close(self) -> None:
        """Let every sink finish."""
        for sink in self._sinks:
            sink.close()


def _step_of(line: str) -> float:
    """The step of a line; a line torn by a crash is never kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
