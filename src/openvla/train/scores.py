"""What predictions are worth: sums over positions on the device, and the metrics that follow from them.

Each supervised position is counted in one cell: where its example comes from, and which dimension of the action it says
(the stop token and all of a text share a cell of their own). Sums of cells can be added over micro-batches, steps and
processes; every average follows from them, so it is weighted by positions however the work was shared out.

Shapes: B examples of T ids, M supervised positions row by row, V vocabulary; S sources, D action dimensions; C = S
(D + 1) cells of F = 6 sums.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from openvla.codec.batch import IGNORE_INDEX
from openvla.codec.codec import Codec
from openvla.codec.statistics import FieldStatistics
from openvla.data.loading.batches import Batches
from openvla.data.loading.frames import Frames
from openvla.spec import ActionSpec

COUNT, LOSS, CORRECT, ERROR, HITS, MISSES = range(6)
"""The sums of a cell: positions; cross-entropy; exactly right tokens; |error| in [-1, 1] units; and of a gripper,
positions where it closes and was said to, and where only one of the two is so."""

TEXT = "conversations"
"""What errors call the conversations about images of a run."""


@dataclass(frozen=True, eq=False)
class Origin:
    """Where examples come from. statistics: of its actions; None for text, which has none."""

    name: str
    statistics: FieldStatistics | None

    @property
    def key(self) -> str:
        """The name as part of a metric's name."""
        return re.sub(r"[^\w.-]+", "_", self.name)


def origins(batches: Batches) -> list[Origin]:
    """Of the sources of `batches`, in their order."""
    return [
        Origin(source.index.header.origin.dataset, source.statistics)
        if isinstance(source, Frames)
        else Origin(TEXT, None)
        for source in batches.sources
    ]


class Scorer:
    """Sums for the examples of some origins, whose actions a codec writes and reads."""

    def __init__(self, sources: Sequence[Origin], codec: Codec, device: torch.device) -> None:
        self.origins = list(sources)
        self._acts = torch.tensor([origin.statistics is not None for origin in sources])
        self._spec = codec.spec if bool(self._acts.any()) else None
        self._dim = 0 if self._spec is None else self._spec.dim
        self._last, self._bins = codec.actions.vocab_size - 1, codec.actions.num_bins
        self._centers = torch.tensor(codec.actions.centers, dtype=torch.float32).to(device, non_blocking=True)
        closing, at = zip(*(closed_side(self._spec, origin.statistics) for origin in sources), strict=True)
        self._closing, self._at = (torch.tensor(part).to(device, non_blocking=True) for part in (closing, at))

    @property
    def shape(self) -> tuple[int, int]:
        """(C, F)"""
        return len(self.origins) * (self._dim + 1), 6

    def cells(self, labels: Int[Tensor, "B T"], source: Int[Tensor, " B"]) -> Int[Tensor, " M"]:
        """The cell of every supervised position. On the CPU, where the labels come from."""
        supervised = labels[:, 1:] != IGNORE_INDEX
        counts, rows = supervised.sum(1), supervised.nonzero()[:, 0]
        place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        acts = self._acts[source[rows]] & (place < counts[rows] - 1)
        part = torch.where(acts, place % max(1, self._dim), self._dim)
        return source[rows] * (self._dim + 1) + part

    def sums(
        self,
        logits: Float[Tensor, "M V"],
        targets: Int[Tensor, " M"],
        losses: Float[Tensor, " M"],
        cells: Int[Tensor, " M"],
    ) -> Float[Tensor, "C F"]:
        """Sums of each cell. Everything is on the device, and nothing waits for it."""
        chosen = logits.argmax(-1)
        said, meant = self._decoded(chosen), self._decoded(targets)
        source = cells // (self._dim + 1)
        closes, should = (self._closing[source] * (value - self._at[source]) > 0 for value in (said, meant))
        columns = (
            torch.ones_like(losses),
            losses.float(),
            chosen == targets,
            (said - meant).abs(),
            closes & should,
            closes ^ should,
        )
        rows = torch.stack([column.float() for column in columns], 1)
        return torch.zeros(self.shape, device=logits.device).index_add_(0, cells, rows)

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """Everything that sums (C, F) say, by name; nothing about what did not occur."""
        table = sums.reshape(len(self.origins), self._dim + 1, 6)
        found = {"loss": _share(table, LOSS)}
        if self._spec is not None:
            found |= self._whole(self._spec, table)
        talk = table[~self._acts.numpy(), -1]
        if talk[:, COUNT].any():
            found |= {"language_loss": _share(talk, LOSS), "language_token_accuracy": _share(talk, CORRECT)}
        for origin, own in zip(self.origins, table, strict=True):
            if self._spec is not None and origin.statistics is not None and own[:, COUNT].any():
                found |= {f"{origin.key}/{name}": value for name, value in self._own(self._spec, origin, own).items()}
        return found

    def present(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """The mean loss of each origin with examples in a batch, by name."""
        table = sums.reshape(len(self.origins), -1, 6)
        pairs = zip(self.origins, table, strict=True)
        return {origin.name: _share(own, LOSS) for origin, own in pairs if own[:, COUNT].any()}

    def _whole(self, spec: ActionSpec, table: NDArray[np.float64]) -> dict[str, float]:
        """Of all actions together."""
        actions = table[:, :-1]
        if not actions[..., COUNT].any():
            return {}
        found = {"action_token_accuracy": _share(actions, CORRECT), "l1_normalized": _share(actions, ERROR)}
        for n, name in enumerate(spec.names):
            found[f"action_token_accuracy/{name}"] = _share(actions[:, n], CORRECT)
            found[f"l1_normalized/{name}"] = _share(actions[:, n], ERROR)
        errors = np.stack([_robot_units(origin, own) for origin, own in zip(self.origins, actions, strict=True)])
        return found | _physical(spec, errors.sum(0), actions[..., COUNT].sum(0)) | _f1(spec, actions[:, -1].sum(0))

    def _own(self, spec: ActionSpec, origin: Origin, own: NDArray[np.float64]) -> dict[str, float]:
        """Of the actions of one data set (D + 1, F); the loss covers its stop tokens too."""
        actions = own[:-1]
        found = {
            "loss": _share(own, LOSS),
            "action_token_accuracy": _share(actions, CORRECT),
            "l1_normalized": _share(actions, ERROR),
        }
        return found | _physical(spec, _robot_units(origin, actions), actions[:, COUNT]) | _f1(spec, actions[-1])

    def _decoded(self, ids: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """Bin centres, as `ActionTokenizer.decode` has them."""
        return self._centers[(self._last - ids).clamp(0, self._bins - 2)]


def closed_side(spec: ActionSpec | None, statistics: FieldStatistics | None) -> tuple[float, float]:
    """(sign, threshold): a gripper closes where sign * (value in [-1, 1] units - threshold) > 0; (0, 0): it never does.

    The threshold is the middle of the gripper's range: of what was normalised 0, else that of the recorded values.
    """
    if spec is None or statistics is None or spec.gripper == "none" or statistics.min[-1] == statistics.max[-1]:
        return 0.0, 0.0
    middle = 0.0 if statistics.normalized[-1] else float(statistics.min[-1] + statistics.max[-1]) / 2
    return (-1.0 if spec.gripper == "open_is_high" else 1.0), middle


def physical_name(name: str, unit: str) -> str:
    """How metrics call a dimension with its unit: x_m, roll_rad, speed_m_per_s; a pure number has none."""
    unit = re.sub(r"\W+", "_", unit.replace("/", "_per_").replace("%", "percent"))
    return name if unit in ("", "1") else f"{name}_{unit}"


def _share(sums: NDArray[np.float64], part: int) -> float:
    return float(sums[..., part].sum() / sums[..., COUNT].sum())


def _robot_units(origin: Origin, actions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of |error| (D,) in the units of the robot."""
    held = origin.statistics
    if held is None:
        return np.zeros(len(actions))
    return actions[:, ERROR] * np.where(held.normalized, 0.5 * (held.q99 - held.q01), 1.0)


def _physical(spec: ActionSpec, errors: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[str, float]:
    names = map(physical_name, spec.names, spec.units)
    return {f"l1_physical/{name}": float(e / n) for name, e, n in zip(names, errors, counts, strict=True)}


def _f1(spec: ActionSpec, gripper: NDArray[np.float64]) -> dict[str, float]:
    """F1 of closing the gripper, unless it is never closed nor said to be."""
    hits, misses = float(gripper[HITS]), float(gripper[MISSES])
    known = spec.gripper != "none" and hits + misses > 0
    return {"gripper_f1": 2 * hits / (2 * hits + misses)} if known else {}
