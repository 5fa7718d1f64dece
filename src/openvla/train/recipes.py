"""Runs that are worth repeating: functions that return the stages of a run, with what they cost and give.

A stage is one configuration; where it needs recordings of its own it says which, so that the command line can make
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from openvla.train.config import TrainConfig


@dataclass(frozen=True)
class Demonstrations:
    """What to record in a simulator before a stage: `episodes` successes per task of the suite's default tasks.

    noise, gain: see `sim.demonstrations.record`.
    """

    suite: str
    episodes: int
    image_size: int
    seed: int
    noise: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A configuration, and the demonstrations it trains on where its data directory does not exist yet."""

    config: TrainConfig
    demonstrations: Demonstrations | None = None


def nano_metaworld(data: Path, output: Path) -> tuple[Stage, ...]:
    """The shipped policy `nano`: ten Meta-World tasks, image and words only.

    The second stage shows softer experts (`sim.demonstrations` says why). Hardware: 2 CPU cores with bfloat16
    instructions. Recording takes about 11 and 6 minutes, training 70 to 95 and 14 (70 to 100 examples a second). Of 250
    evaluation episodes 86 % succeed after the first stage and 97 % after the second (`docs/nano.md`).
    """
    first = TrainConfig(
        data=data / "1-experts",
        output=output / "1-experts",
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
    )
    second = replace(
        first,
        data=data / "2-softer",
        output=output / "2-softer",
        checkpoint=str(first.output / "final"),
        steps=2000,
        learning_rate=3e-4,
    )
    return (
        Stage(first, Demonstrations("metaworld", episodes=300, image_size=112, seed=0, noise=0.5)),
        Stage(second, Demonstrations("metaworld", episodes=160, image_size=112, seed=10_000, noise=0.5, gain=0.5)),
    )


RECIPES: dict[str, Callable[[Path, Path], tuple[Stage, ...]]] = {"nano-metaworld": nano_metaworld}
