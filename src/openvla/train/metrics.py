"""What a run measures and where it writes it.

Every line of metrics.jsonl is {"step": int, name: number, ...}; the names carry their units. The same numbers go to
TensorBoard.

Shapes: B batch, K action tokens per example (chunk x dim, in that order), V vocabulary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.errors import TrainingError, require
from openvla.files import write_text


def action_metrics(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], batch: int, codec: Codec
) -> dict[str, float]:
    """Accuracy and error of the greedy action tokens, given N = B (K + 1) supervised positions row by row.

    action_token_accuracy: share of exactly right tokens. l1_normalized: mean |error| in [-1, 1] units, in all and for
    each dimension by name. The stop token counts in neither.
    """
    chosen = logits.argmax(-1).reshape(batch, -1)[:, :-1].cpu().numpy()
    wanted = targets.reshape(batch, -1)[:, :-1].cpu().numpy()
    error = np.abs(codec.actions.decode(chosen) - codec.actions.decode(wanted))
    names = codec.spec.names
    by_dimension = error.reshape(-1, len(names)).mean(axis=0)
    return {
        "action_token_accuracy": float((chosen == wanted).mean()),
        "l1_normalized": float(error.mean()),
        **{f"l1_normalized/{name}": float(value) for name, value in zip(names, by_dimension, strict=True)},
    }


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over those of `rows` that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


class MetricLog:
    """metrics.jsonl and TensorBoard files of one run."""

    def __init__(self, output: Path, resume_step: int) -> None:
        """Lines that an interrupted run wrote after its last checkpoint, step `resume_step`, are dropped."""
        self._path = output / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if resume_step and self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= resume_step]
        write_text(self._path, "".join(line + "\n" for line in kept), TrainingError)
        writer = require("torch.utils.tensorboard.writer", "train").SummaryWriter
        self._board: Any = writer(str(output / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` as of `step` finished steps."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what TensorBoard buffers."""
        self._board.close()


def _step_of(line: str) -> float:
    """The step of a line; a line torn by a crash is never kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a 2048-wide matrix product here and now: what the model FLOPs utilisation (MFU) is a share of."""
    matrix = torch.rand(2048, 2048, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


class Window:
    """Metrics since the last log line: means of what steps report, and the pace."""

    def __init__(
        self, flops: Callable[[int], float], matmul_flops_per_s: float, processes: int, rows: list[dict[str, float]]
    ) -> None:
        """flops: of a training step per example, by its number of ids. processes: each takes as many examples.

        rows: what the steps of the window reported before the run was interrupted.
        """
        self._step_flops, self._rate, self._processes = flops, matmul_flops_per_s, processes
        self._open(rows)

    def timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """`batches`, with the time spent waiting for them."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._wait_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, row: dict[str, float], shape: torch.Size) -> None:
        """Count one step over ids of `shape` (B, T) in this process."""
        self.rows.append(row)
        self._examples += shape[0]
        self._flops += shape[0] * self._step_flops(shape[1])

    def take(self) -> dict[str, float]:
        """The metrics of the window, which starts anew."""
        elapsed = time.perf_counter() - self._start
        values = {f"train/{name}": value for name, value in average(self.rows).items()} | {
            "perf/samples_per_s": self._processes * self._examples / elapsed,
            "perf/mfu": self._flops / elapsed / self._rate,
            "perf/data_wait_fraction": self._wait_s / elapsed,
        }
        self._open([])
        return values

    def _open(self, rows: list[dict[str, float]]) -> None:
        self.rows = rows
        self._examples, self._flops, self._wait_s, self._start = 0, 0.0, 0.0, time.perf_counter()
