"""`openvla finetune`: adapt a checkpoint to a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openvla.cli.output import Result
from openvla.train.config import TrainConfig, settings_of

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


def run(options: Options) -> Result | None:
    """Train, and hand back where the adapted checkpoint is and what was last measured."""
    from openvla.train.loop import train

    return trained(train(TrainConfig(**settings_of(options)), quiet=options.json))


def trained(result: TrainResult) -> Result | None:
    """What a finished run prints: the checkpoint and the last values of its metrics; for people, those of the whole.

    Of the processes under torchrun only the first prints.
    """
    if os.environ.get("RANK", "0") != "0":
        return None
    from openvla.train.report import shown

    metrics = [f"{name} {shown(value, 4)}" for name, value in result.metrics.items() if name.count("/") == 1]
    return Result({"checkpoint": result.final, "metrics": result.metrics}, "\n".join([*metrics, "", str(result.final)]))
