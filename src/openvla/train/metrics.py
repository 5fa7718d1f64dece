"""What a run says of itself between two log lines: how well it predicts, and how fast it goes.

The names of metrics carry their units. `train/` is about predictions (`scores`), `perf/` about the machine.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla.train.scores import Scorer
from openvla.train.world import World


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a wide matrix product here and now: what the model FLOPs utilisation (MFU) is a share of."""
    width = 8192 if device.type == "cuda" else 2048  # a GPU is done with a small one before its start is paid for
    matrix = torch.rand(width, width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory this process ever had resident, and the most it held on its GPU, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held when it started this process
        peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        resident = 1024 * peak
    else:
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {"perf/peak_resident_bytes": float(resident)}
    if device.type == "cuda":
        found["perf/peak_cuda_bytes"] = float(torch.cuda.max_memory_allocated(device))
    return found


class Window:
    """The steps since the last log line: sums of what they predicted, and the pace."""

    def __init__(self, scorer: Scorer, world: World, flops: Callable[[int], float], matmul_flops_per_s: float) -> None:
        """flops: of a training step per example, by its number of ids."""
        self._scorer, self._world, self._step_flops, self._rate = scorer, world, flops, matmul_flops_per_s
        self._open()

    def timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """`batches`, with the time spent waiting for them."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._wait_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def count(self, shape: torch.Size) -> None:
        """Count one step over ids of `shape` (B, T) in this process."""
        self._examples += shape[0]
        self._flops += shape[0] * self._step_flops(shape[1])

    def add(self, gradient_norm: float, sums: NDArray[np.float64]) -> None:
        """Add what one step of all processes measured; sums: (C, F), see `Scorer`."""
        self._steps, self._norms, self._sums = self._steps + 1, self._norms + gradient_norm, self._sums + sums

    def take(self) -> dict[str, float]:
        """The metrics of the window, which starts anew. Every process must ask."""
        elapsed = time.perf_counter() - self._start
        pace = {
            "perf/mfu": self._flops / elapsed / self._rate,
            "perf/data_wait_fraction": self._wait_s / elapsed,
        }
        everywhere = self._world.gather((self._examples / elapsed, pace, peak_memory(self._world.device)))
        speeds, paces, peaks = zip(*everywhere, strict=True)
        found = {f"train/{name}": value for name, value in self._scorer.metrics(self._sums).items()} | {
            "train/gradient_norm": self._norms / self._steps,
            "perf/samples_per_s": sum(speeds),
            **{name: float(np.mean([each[name] for each in paces])) for name in pace},
            **{name: max(each[name] for each in peaks) for name in peaks[0]},
        }
        self._open()
        return found

    def state(self) -> dict[str, Any]:
        """What a resumed run needs for the same next line: JSON-ready, every bit of it."""
        names = [origin.name for origin in self._scorer.origins]
        return {"origins": names, "steps": self._steps, "gradient_norms": self._norms, "sums": self._sums.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, unless the run was forced to go on with other data."""
        if state and state["origins"] == self.state()["origins"]:
            self._steps, self._norms = state["steps"], state["gradient_norms"]
            self._sums = np.asarray(state["sums"], np.float64).reshape(self._scorer.shape)

    def _open(self) -> None:
        self._steps, self._norms, self._sums = 0, 0.0, np.zeros(self._scorer.shape)
        self._examples, self._flops, self._wait_s, self._start = 0, 0.0, 0.0, time.perf_counter()
