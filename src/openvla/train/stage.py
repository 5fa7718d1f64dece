"""A stage of a recipe: a run, what to record for it, the cards it was made for, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla.errors import UsageError, lookup
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
class Cards:
    """GPUs: how many, GiB of memory of one, and its dense operations per second in bfloat16, in 10^12."""

    count: int
    memory_gb: float
    tflops: float


@dataclass(frozen=True)
class Stage:
    """A configuration, and the demonstrations it trains on where its data directory does not exist yet.

    preset: the model's sizes, by name. cards: what it was made for; None is a CPU.
    """

    config: TrainConfig
    demonstrations: Demonstrations | None = None
    preset: str | None = None
    cards: Cards | None = None


Recipe = Callable[[Path, Path], tuple[Stage, ...]]
"""From the directories of data and output to the stages, in order. The docstring's first line is its summary."""


def summary(recipe: Recipe) -> str:
    """The first sentence of its docstring."""
    return (recipe.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def needs(stage: Stage) -> dict[str, Any]:
    """The plan of a stage on its cards, as `openvla plan` prints it; without hours and `largest_batch` on a CPU.

    Conversations are taken to be as long as they may be, which memory must hold; the hours are then the most.
    Raises UsageError for a stage whose model's sizes are not known, and a batch that the cards cannot share.
    """
    from openvla.model.presets import PRESETS  # brings torch
    from openvla.train.memory import Load
    from openvla.train.plan import Hardware, plan

    if stage.preset is None:
        raise UsageError(f"the sizes of {stage.config.checkpoint!r} are not known by name; use `openvla plan`")
    config, cards = stage.config, stage.cards
    count = 1 if cards is None else cards.count
    if config.batch_size % count:
        raise UsageError(f"the batch of {config.batch_size} cannot be shared by {count} cards; make it a multiple")
    talk = {} if config.image_text is None else dict.fromkeys(("text_tokens", "supervised"), config.image_text_tokens)
    load = Load(
        **talk,
        batch=config.batch_size // count,
        precision="fp32" if config.precision == "fp32" else "bf16",
        world_size=count,
        checkpointing=config.checkpoint_activations,
        accumulate=config.accumulate,
        shard=config.shard,
    )
    model, method = lookup(stage.preset, PRESETS, "preset").model, config.method
    if cards is None:
        found = plan(model, method, config.rank, load, Hardware())
        return {name: value for name, value in found.items() if name not in ("largest_batch", "hardware")}
    hardware = Hardware(card_gb=cards.memory_gb, card_tflops=cards.tflops)
    return plan(model, method, config.rank, load, hardware, config.steps * config.batch_size)
