"""`openvla finetune`: adapt a checkpoint to a data set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openvla.cli.output import Result
from openvla.train.config import TrainConfig

if TYPE_CHECKING:
    from openvla.train.loop import TrainResult


@dataclass(frozen=True)
class Options(TrainConfig):
    """Adapt a checkpoint to a data set: every weight, some, or LoRA adapters that are merged in at the end.

    Under torchrun the model is spread over all processes. SIGTERM saves the run, for --resume, and ends it with exit
    code 143.
    """

    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Train, and hand back where the adapted checkpoint is and what was last measured."""
    from openvla.train.loop import train

    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return trained(train(TrainConfig(**{name: getattr(options, name) for name in names}), quiet=options.json))


def trained(result: TrainResult) -> Result:
    """What a finished run prints: the checkpoint and the last values of its metrics; for people, those of the whole."""
    metrics = [f"{name} {value:.4g}" for name, value in result.metrics.items() if name.count("/") == 1]
    return Result({"checkpoint": result.final, "metrics": result.metrics}, "\n".join([*metrics, "", str(result.final)]))
