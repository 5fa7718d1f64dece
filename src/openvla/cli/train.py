"""`openvla train`: run a recipe from start to checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from openvla.cli.finetune import trained
from openvla.cli.output import Result


@dataclass(frozen=True)
class Options:
    """Run a training recipe: record its demonstrations where they are not there yet, train, save the checkpoint."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Name of the recipe, e.g. nano-metaworld."""
    output: Path | None = None
    """Directory of the run; runs/RECIPE where omitted."""
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
    """Record, train, and hand back where the checkpoint is and what was last measured."""
    from openvla.data.recording import record_dataset
    from openvla.errors import lookup
    from openvla.train.recipes import RECIPES

    name = options.recipe
    data = options.data or Path("data") / name
    recipe = lookup(name, RECIPES, "recipe")(data, options.output or Path("runs") / name)
    config = dataclasses.replace(recipe.config, device=options.device, resume=options.resume)
    wanted = recipe.demonstrations
    if wanted is not None and not data.exists():
        record_dataset(
            data,
            wanted.suite,
            None,
            wanted.episodes,
            seed=wanted.seed,
            noise=wanted.noise,
            image_size=wanted.image_size,
            workers=options.workers,
        )
    from openvla.train.loop import train  # brings torch; a wrong name is reported before

    return trained(train(config))
