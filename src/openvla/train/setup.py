"""What a run needs before its first step: settings that fit, a start, statistics, frames.

Nothing is written here, so a run that cannot start leaves nothing behind.
"""

from __future__ import annotations

import dataclasses

import torch

from openvla.codec.codec import Codec
from openvla.codec.statistics import select
from openvla.data.frames import Batches, Frames, split_episodes
from openvla.data.oxe import DATASETS
from openvla.data.statistics import dataset_statistics
from openvla.errors import UsageError, lookup
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.nn.hardware import multiplies_bf16
from openvla.train.config import TrainConfig
from openvla.train.fresh import PREFIX, fresh_checkpoint


def check(config: TrainConfig) -> None:
    """Raise UsageError for settings that no run can have."""
    for name in ("steps", "batch_size", "save_every", "validate_every", "log_every", "keep", "validation_frames"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; give a whole number from 1")
    for name in ("seed", "weight_decay"):
        if getattr(config, name) < 0:
            raise UsageError(f"{name} is {getattr(config, name)}; give 0 or more")
    if not (config.learning_rate > 0 and config.gradient_clip > 0):
        raise UsageError(
            f"learning_rate is {config.learning_rate} and gradient_clip {config.gradient_clip}; both must be above 0"
        )
    if config.hold_out < 0 or config.hold_out == 1 or not 0 <= config.warmup_ratio <= 1:
        raise UsageError(
            f"hold_out is {config.hold_out} and warmup_ratio {config.warmup_ratio}; the first must be 0 or from 2, "
            "the second in 0..1"
        )


def starting_point(config: TrainConfig) -> Checkpoint:
    """The checkpoint a run starts from, loaded or new."""
    if config.checkpoint.startswith(PREFIX):
        return fresh_checkpoint(config.checkpoint.removeprefix(PREFIX), config.dataset, config.seed)
    return load_checkpoint(config.checkpoint)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; "auto" takes bfloat16 where `device` multiplies it natively."""
    table = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if name != "auto":
        return lookup(name, table, "precision")
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def with_statistics(codec: Codec, config: TrainConfig) -> Codec:
    """The codec with statistics of the data set: its own where it has them, so that what it learned stays true."""
    if config.dataset in codec.statistics:
        return codec
    record = lookup(config.dataset, DATASETS, "data set")
    if codec.action_dim not in (None, record.action.dim):
        raise UsageError(
            f"{config.dataset!r} has {record.action.dim} action dimensions, the checkpoint {codec.action_dim}; "
            "use data of the same robot, or start from another checkpoint"
        )
    table = {**codec.statistics, config.dataset: dataset_statistics(config.data, config.dataset)}
    return dataclasses.replace(codec, statistics=table, action=record.action)


def load_batches(config: TrainConfig, codec: Codec) -> tuple[Batches, Batches | None]:
    """What to train on, and what to validate on; None where nothing is held out."""
    statistics = select(codec.statistics, config.dataset).action
    training, validation = (
        Frames(episodes, config.dataset, statistics, codec.chunk)
        for episodes in split_episodes(config.data, config.hold_out)
    )
    held_out = min(config.batch_size, len(validation))
    return (
        Batches(training, codec, config.batch_size, config.seed),
        Batches(validation, codec, held_out, config.seed) if held_out else None,
    )
