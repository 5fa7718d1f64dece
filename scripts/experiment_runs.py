"""Measurements that are commands: each in a process of its own, its outcome in a file, so that no one is made twice."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla.errors import UsageError
from openvla.files import write_text
from openvla.sim.circumstances import circumstances

# This process stays small: the peak memory of a child counts from what its parent held when it was started.
OPENVLA = (sys.executable, "-c", "import sys; from openvla.cli.main import main; sys.exit(main(sys.argv[1:]))")


@dataclass(frozen=True)
class Cell:
    """One measurement. arguments: of `openvla`. output: a directory that the command makes."""

    name: str
    arguments: tuple[str, ...]
    output: Path | None = None


class Bench:
    """Runs cells and keeps their outcomes below `directory`."""

    def __init__(self, directory: Path, total: int, minutes: float | None) -> None:
        self.directory, self.total = directory, total
        self.until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        self.running: set[subprocess.Popen[str]] = set()
        self.lock, self.ended = threading.Lock(), False

    def run(self, chains: Sequence[Sequence[Cell]], workers: int) -> None:
        """Every chain from its first missing cell on, `workers` at a time. Raises UsageError where a command fails."""
        with ThreadPoolExecutor(workers) as pool:
            try:
                for future in as_completed([pool.submit(self.run_chain, chain) for chain in chains]):
                    future.result()
            except BaseException:
                self.end()
                raise

    def run_chain(self, chain: Sequence[Cell]) -> None:
        """The missing cells, in order."""
        for cell in chain:
            target = self.target(cell)
            if not target.exists():
                if self.ended or time.monotonic() > self.until:
                    return
                outcome = self.measure(cell)
                write_text(target, json.dumps(outcome, indent=1) + "\n", UsageError)
                done = len(list(target.parent.glob("*.json")))
                print(f"[{done}/{self.total}] {cell.name}: {outcome['seconds']:.0f} s", file=sys.stderr, flush=True)

    def target(self, cell: Cell) -> Path:
        """The file of its outcome."""
        return self.directory / "cells" / f"{cell.name}.json"

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Run the command; what it prints, how long it took, and the most memory it held."""
        if cell.output is not None:
            shutil.rmtree(cell.output, ignore_errors=True)  # of an attempt that was stopped
        log, began = self.directory / "logs" / f"{cell.name}.txt", time.perf_counter()
        with log.open("w") as errors, tempfile.TemporaryFile("w+") as printed:
            status, peak = self.wait([*OPENVLA, *cell.arguments, "--json"], printed, errors)
            printed.seek(0)
            text = printed.read()
        if status != 0:
            lines = log.read_text().strip().splitlines() or [f"exit code {status}"]
            raise UsageError(f"{cell.name} failed: {lines[-1]}; see {log}, then run the script again to go on")
        found: dict[str, Any] = {
            "command": shlex.join(["openvla", *cell.arguments]),
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": peak,
            "circumstances": circumstances(),
            "result": json.loads(text),
        }
        if cell.output is not None and (cell.output / "metrics.jsonl").exists():
            found["seconds_per_step"] = pace(cell.output / "metrics.jsonl", cell.arguments)
            shutil.rmtree(cell.output / "checkpoints")  # the state to resume from; `final` is kept
        return found

    def wait(self, command: Sequence[str], printed: Any, errors: Any) -> tuple[int, int]:
        """Exit code and peak resident bytes of `command`."""
        with self.lock:
            if self.ended:
                raise UsageError("stopped; run the script again to go on")
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=printed, stderr=errors, text=True, env=environment)
            self.running.add(process)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        with self.lock:
            self.running.discard(process)
        return process.returncode, usage.ru_maxrss * 1024

    def end(self) -> None:
        """Stop what runs; nothing more begins."""
        with self.lock:
            self.ended = True
            for process in self.running:
                process.kill()


def pace(log: Path, arguments: Sequence[str]) -> float:
    """Median seconds of a training step over the lines of a run's log."""
    batch = int(arguments[arguments.index("--batch-size") + 1])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return statistics.median(batch / row["perf/samples_per_s"] for row in rows if "perf/samples_per_s" in row)
