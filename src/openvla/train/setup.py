"""What a run needs before its first step: settings that fit, a start.

Nothing is written here, so a run that cannot start leaves nothing behind.
"""

from __future__ import annotations

import torch

from openvla.errors import UsageError, lookup
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.nn.hardware import DTYPES, multiplies_bf16
from openvla.train.config import TrainConfig
from openvla.train.data import members
from openvla.train.fresh import PREFIX, fresh_checkpoint


def check(config: TrainConfig) -> None:
    """Raise UsageError for settings that no run can have."""
    for name in (
        "steps",
        "batch_size",
        "accumulate",
        "save_every",
        "validate_every",
        "log_every",
        "keep",
        "validation_frames",
        "workers",
    ):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; give a whole number from 1")
    for name in ("seed", "weight_decay"):
        if getattr(config, name) < 0:
            raise UsageError(f"{name} is {getattr(config, name)}; give 0 or more")
    if not (config.learning_rate > 0 and config.gradient_clip > 0):
        raise UsageError(
            f"learning_rate is {config.learning_rate} and gradient_clip {config.gradient_clip}; both must be above 0"
        )
    if not 0 < config.preflight_timeout_s <= 86_400:
        raise UsageError(f"preflight_timeout_s is {config.preflight_timeout_s}; give seconds above 0, at most a day")
    if config.double_quantization and config.method != "qlora":
        raise UsageError(
            f"double_quantization is set and the method is {config.method!r}, which quantises nothing; use qlora"
        )
    if config.hold_out < 0 or config.hold_out == 1 or not 0 <= config.warmup_ratio <= 1:
        raise UsageError(
            f"hold_out is {config.hold_out} and warmup_ratio {config.warmup_ratio}; the first must be 0 or from 2, "
            "the second in 0..1"
        )


def starting_point(config: TrainConfig) -> Checkpoint:
    """The checkpoint a run starts from, loaded or new."""
    if config.checkpoint.startswith(PREFIX):
        record = members(config)[0].entry.record  # data sets of one run act alike
        return fresh_checkpoint(config.checkpoint.removeprefix(PREFIX), record, config.seed)
    return load_checkpoint(config.checkpoint)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; "auto" takes bfloat16 where `device` multiplies it natively."""
    if name != "auto":
        return lookup(name, {each: DTYPES[each] for each in ("bf16", "fp32")}, "precision")
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32
