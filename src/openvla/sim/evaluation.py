"""What a closed-loop evaluation found, as frozen records: one episode, one task, the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval (low, high) of a success rate; unlike the normal one it holds near 0 % and 100 %.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927, eq. for p.

    >>> wilson(0, 0)
    (0.0, 1.0)
    """
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, Z95**2
    centre = rate + z2 / (2 * trials)
    half = Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    low = 0.0 if successes == 0 else (centre - half) / scale  # exactly, not up to rounding
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. `steps` counts actions until success or the end; `video` is a path below the output directory."""

    task: str
    seed: int
    success: bool
    steps: int
    latencies_ms: tuple[float, ...] = ()
    video: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "success": self.success, "steps": self.steps, "video": self.video}


@dataclass(frozen=True)
class TaskResult:
    """All episodes of one task, and the instruction that was given in them."""

    instruction: str
    results: tuple[EpisodeResult, ...]

    @property
    def episodes(self) -> int:
        return len(self.results)

    @property
    def successes(self) -> int:
        return sum(result.success for result in self.results)

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes

    @property
    def ci95(self) -> tuple[float, float]:
        return wilson(self.successes, self.episodes)

    @property
    def mean_steps_to_success(self) -> float | None:
        """Mean number of actions in the successful episodes, or None without any."""
        steps = [result.steps for result in self.results if result.success]
        return sum(steps) / len(steps) if steps else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.success_rate,
            "ci95": list(self.ci95),
            "mean_steps_to_success": self.mean_steps_to_success,
            "results": [result.to_dict() for result in self.results],
        }


@dataclass(frozen=True)
class Evaluation:
    """A whole evaluation.

    control_hz: actions per second in the simulator. duration_s: wall-clock time of the run.
    directory: where the paths of videos start, or None where nothing was written.
    circumstances: what a reader needs to repeat it (command, date, seed, machine, versions), as printable text.
    """

    suite: str
    tasks: Mapping[str, TaskResult]
    control_hz: float
    duration_s: float
    directory: Path | None = None
    circumstances: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def results(self) -> list[EpisodeResult]:
        """Every episode, task by task."""
        return [result for task in self.tasks.values() for result in task.results]

    @property
    def success_rate(self) -> float:
        """Mean over tasks, so that each task weighs the same."""
        return float(np.mean([task.success_rate for task in self.tasks.values()]))

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson interval over all episodes."""
        return wilson(sum(result.success for result in self.results), len(self.results))

    @property
    def latencies_ms(self) -> list[float]:
        """Wall-clock milliseconds of every call to the policy."""
        return [latency for result in self.results for latency in result.latencies_ms]

    def latency_ms(self, percentile: float) -> float:
        """A percentile (0..100) of the milliseconds that the policy took to answer."""
        return float(np.percentile(self.latencies_ms, percentile))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; rates are fractions in [0, 1]."""
        return {
            "suite": self.suite,
            "episodes": len(self.results),
            "success_rate": self.success_rate,
            "ci95": list(self.ci95),
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
            "latency_ms": {"p50": self.latency_ms(50), "p99": self.latency_ms(99)},
            "control_hz": self.control_hz,
            "duration_s": self.duration_s,
            "circumstances": dict(self.circumstances),
        }
