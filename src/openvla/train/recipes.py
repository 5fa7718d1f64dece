"""Runs that are worth repeating: functions that return a configuration, with what they cost and give.

A recipe that needs demonstrations of its own says which, so that the command line can record them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openvla.train.config import TrainConfig


@dataclass(frozen=True)
class Demonstrations:
    """What to record in a simulator before the run: `episodes` successes per task of the suite's default tasks."""

    suite: str
    episodes: int
    noise: float
    image_size: int
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """A configuration, and the demonstrations it trains on where its data directory does not exist yet."""

    config: TrainConfig
    demonstrations: Demonstrations | None = None


def nano_metaworld(data: Path, output: Path) -> Recipe:
    """The shipped policy `nano`: ten Meta-World tasks, image and words only.

    Hardware: 2 CPU cores with bfloat16 instructions. Recording takes about 11 minutes, training 70 to 95 (70 to 100
    examples a second). The shipped weights are those of checkpoint step-011000, where 88 % of 250 evaluation episodes
    succeed (`docs/nano.md`); validation loss falls from 1.77 at step 1000 to 1.37 at step 8000.
    """
    return Recipe(
        TrainConfig(
            data=data,
            output=output,
            checkpoint="preset:nano",
            steps=12500,
            batch_size=32,
            learning_rate=6e-4,
            schedule="cosine",
            warmup_ratio=0.02,
            weight_decay=0.01,
            precision="bf16",
            validate_every=1000,
            save_every=1000,
            keep=3,
        ),
        Demonstrations("metaworld", episodes=300, noise=0.5, image_size=112),
    )


RECIPES: dict[str, Callable[[Path, Path], Recipe]] = {"nano-metaworld": nano_metaworld}
