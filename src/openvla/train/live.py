"""How a run goes, for who watches: a table that is redrawn in place on a terminal, a line at a time elsewhere.

Everything goes to standard error, and nothing costs a step more than a glance at the clock.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

REDRAW_S = 0.25
BAR = 24

COLUMNS = {
    "loss": "loss",
    "action_token_accuracy": "token accuracy",
    "l1_normalized": "L1",
    "gripper_f1": "gripper F1",
    "language_loss": "language loss",
    "language_token_accuracy": "language accuracy",
}
"""The metrics that have a column, and its heading."""


class Live:
    """The view of one run."""

    def __init__(self, steps: int, start: int, quiet: bool, stream: TextIO | None = None) -> None:
        """start: the step that the run resumes from, or 0. stream: standard error where None."""
        self._stream = stream or sys.stderr
        self._steps, self._start, self._quiet = steps, start, quiet
        self._tty = self._stream.isatty()
        self._began, self._drawn_at, self._lines = time.monotonic(), -REDRAW_S, 0
        self._last: Mapping[str, float] = {}

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after every step; `metrics` holds the latest of everything that was logged."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._tty:
            if now - self._drawn_at >= REDRAW_S or step == self._steps:
                self._draw(self.table(step, metrics, now - self._began))
                self._drawn_at = now
        elif metrics != self._last and "train/loss" in metrics:
            self._last = dict(metrics)
            print(self.line(step, metrics, now - self._began), file=self._stream, flush=True)

    def close(self) -> None:
        """Leave what is drawn where it is."""
        if self._lines:
            print(file=self._stream, flush=True)

    def line(self, step: int, metrics: Mapping[str, float], seconds: float) -> str:
        """Where the run is and how it does, in one line."""
        words = [f"step {step}/{self._steps}", *_numbers(metrics, "train/"), *_numbers(metrics, "validation/")]
        if "perf/samples_per_s" in metrics:
            words.append(f"{metrics['perf/samples_per_s']:.1f} samples/s")
        return "  ".join([*words, f"{self._left(step, seconds)} left"])

    def table(self, step: int, metrics: Mapping[str, float], seconds: float) -> list[str]:
        """The same, and the data sets, as a table of a few lines."""
        done = BAR * step // self._steps
        head = f"step {step} of {self._steps}  [{'=' * done}{' ' * (BAR - done)}]  {self._left(step, seconds)} left"
        rows = {"train": "train/", "validation": "validation/"} | {
            name: f"train/{name}/" for name in _data_sets(metrics)
        }
        shown = [name for name in COLUMNS if any(prefix + name in metrics for prefix in rows.values())]
        if not shown:
            return [head]
        left = max(map(len, rows))
        lines = [head, " " * left + "".join(f"  {COLUMNS[name]:>{_width(name)}}" for name in shown)]
        for title, prefix in rows.items():
            cells = [_cell(metrics.get(prefix + name), _width(name)) for name in shown]
            if any(prefix + name in metrics for name in shown):
                lines.append(f"{title:{left}}" + "".join(f"  {cell}" for cell in cells))
        return [*lines, _machine(metrics)] if "perf/samples_per_s" in metrics else lines

    def _left(self, step: int, seconds: float) -> str:
        left = round(seconds / max(1, step - self._start) * (self._steps - step))
        hours, minutes = divmod(left // 60, 60)
        return f"{hours}:{minutes:02}:{left % 60:02}" if hours else f"{minutes}:{left % 60:02}"

    def _draw(self, lines: list[str]) -> None:
        width = shutil.get_terminal_size().columns - 1  # a line that wraps would be two to go back over
        back = f"\x1b[{self._lines - 1}F" if self._lines > 1 else "\r" if self._lines else ""
        self._stream.write(back + "\x1b[J" + "\n".join(line[:width] for line in lines))
        self._stream.flush()
        self._lines = len(lines)


def _numbers(metrics: Mapping[str, float], prefix: str) -> list[str]:
    found = [f"{COLUMNS[name]} {metrics[prefix + name]:.4g}" for name in COLUMNS if prefix + name in metrics]
    return [" ".join([prefix.rstrip("/"), *found])] if found else []


def _data_sets(metrics: Mapping[str, float]) -> list[str]:
    """Those of a mixture; one alone has the numbers of the whole."""
    ends = ("train/", "/action_token_accuracy")
    found = [
        name[len(ends[0]) : -len(ends[1])] for name in metrics if name.startswith(ends[0]) and name.endswith(ends[1])
    ]
    return found if len(found) > 1 else []


def _machine(metrics: Mapping[str, float]) -> str:
    words = [
        f"{metrics['perf/samples_per_s']:.1f} samples/s",
        f"MFU {metrics['perf/mfu']:.0%}",
        f"waiting for data {metrics['perf/data_wait_fraction']:.0%}",
        f"memory {metrics['perf/peak_resident_bytes'] / 2**30:.2f} GiB",
    ]
    if "perf/peak_cuda_bytes" in metrics:
        words.append(f"GPU {metrics['perf/peak_cuda_bytes'] / 2**30:.2f} GiB")
    return "   ".join(words)


def _width(name: str) -> int:
    return max(7, len(COLUMNS[name]))


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else format(value, '.4g'):>{width}}"
