"""`openvla train`: run a recipe from start to checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openvla.cli.finetune import trained
from openvla.cli.output import Result

if TYPE_CHECKING:
    from openvla.train.loop import TrainResult
    from openvla.train.recipes import Demonstrations, Stage


@dataclass(frozen=True)
class Options:
    """Run a training recipe: record its demonstrations where they are not there yet, train, save the checkpoint.

    A recipe may have several stages, each in a directory of its own below --output and --data.
    """

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe, e.g. nano-metaworld."""
    output: Path | None = None
    """Directory of the runs; runs/RECIPE where omitted."""
    data: Path | None = None
    """Directory of the demonstrations; data/RECIPE where omitted."""
    workers: int = 2
    """Simulators that record side by side."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    resume: bool = False
    """Continue an interrupted run from its newest checkpoint."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Run the stages in order, and hand back where the last checkpoint is and what was last measured."""
    from openvla.errors import lookup
    from openvla.train.recipes import RECIPES

    name = options.recipe
    recipe = lookup(name, RECIPES, "recipe")
    first, *others = recipe(options.data or Path("data") / name, options.output or Path("runs") / name)
    result = run_stage(first, options, resume=options.resume)
    for stage in others:
        result = run_stage(stage, options, resume=options.resume and stage.config.output.exists())
    return trained(result)


def run_stage(stage: Stage, options: Options, resume: bool) -> TrainResult:
    """Record what the stage needs where it is not there yet, and train."""
    from openvla.train.loop import train  # brings torch; a wrong name is reported before

    config = dataclasses.replace(stage.config, device=options.device, resume=resume)
    if stage.demonstrations is not None and not config.data.exists():
        demonstrate(config.data, stage.demonstrations, options.workers)
    return train(config)


def demonstrate(directory: Path, wanted: Demonstrations, workers: int) -> None:
    """Record `wanted` as a data set below `directory`."""
    from openvla.data.recording import record_dataset

    record_dataset(
        directory,
        wanted.suite,
        None,
        wanted.episodes,
        seed=wanted.seed,
        noise=wanted.noise,
        image_size=wanted.image_size,
        workers=workers,
        gain=wanted.gain,
    )
