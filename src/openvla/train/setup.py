"""What a run needs before its first step: settings that fit, a start.

Nothing is written here, so a run that cannot start leaves nothing behind.
"""

from __future__ import annotations

import math

import torch

from openvla.errors import UsageError, lookup
from openvla.model.assemble import assemble
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.registry import VLMS
from openvla.nn.hardware import DTYPES, multiplies_bf16
from openvla.train.config import TrainConfig
from openvla.train.data import members
from openvla.train.fresh import PREFIX, fresh_checkpoint
from openvla.train.sinks import check_sinks


def check(config: TrainConfig) -> None:
    """Raise UsageError for settings that no run can have, MissingDependencyError for a sink without its package."""
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
        "image_text_tokens",
    ):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; give a whole number from 1")
    check_sinks(config.sinks)
    for name in ("seed", "weight_decay"):
        if not 0 <= getattr(config, name) < math.inf:
            raise UsageError(f"{name} is {getattr(config, name)}; give 0 or more")
    if not (0 < config.learning_rate < math.inf and config.gradient_clip > 0):
        raise UsageError(
            f"learning_rate is {config.learning_rate} and gradient_clip {config.gradient_clip}; both must be above 0"
        )
    if not 0 < config.preflight_timeout_s <= 86_400:
        raise UsageError(f"preflight_timeout_s is {config.preflight_timeout_s}; give seconds above 0, at most a day")
    _check_start(config)
    if config.double_quantization and config.method != "qlora":
        raise UsageError(
            f"double_quantization is set and the method is {config.method!r}, which quantises nothing; use qlora"
        )
    if config.hold_out < 0 or config.hold_out == 1 or not 0 <= config.warmup_ratio <= 1:
        raise UsageError(
            f"hold_out is {config.hold_out} and warmup_ratio {config.warmup_ratio}; the first must be 0 or from 2, "
            "the second in 0..1"
        )


def _check_start(config: TrainConfig) -> None:
    """What the weights start from, and which conversations there are."""
    if not 0 < config.image_text_ratio <= 1:
        raise UsageError(
            f"image_text_ratio is {config.image_text_ratio}; give a share above 0 and up to 1, which is all of them"
        )
    if config.captions and config.image_text is None:
        raise UsageError("captions is set, but no image_text whose answers could be captions; name its file")
    if (config.language_model or config.vision_weights) and not config.checkpoint.startswith(PREFIX):
        raise UsageError(
            f"language_model and vision_weights are parts of a new model, but {config.checkpoint!r} has its own; leave "
            f'them out, or give "{PREFIX}NAME" as the checkpoint'
        )
    if config.vision_weights and not assembled(config):
        raise UsageError("vision_weights are given, but no language_model to join them to; give both")


def assembled(config: TrainConfig) -> bool:
    """Whether the run starts from published encoders and a language model: one of the registry does by itself."""
    return config.language_model is not None or config.checkpoint.removeprefix(PREFIX) in VLMS


def starting_point(config: TrainConfig) -> Checkpoint:
    """The checkpoint a run starts from, loaded or new."""
    if config.checkpoint.startswith(PREFIX):
        name = config.checkpoint.removeprefix(PREFIX)
        if assembled(config):
            return assemble(name, config.language_model, config.vision_weights, config.seed)
        found = members(config)  # data sets of one run act alike
        return fresh_checkpoint(name, found[0].entry.record if found else None, config.seed)
    return load_checkpoint(config.checkpoint)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; "auto" takes bfloat16 where `device` multiplies it natively."""
    if name != "auto":
        return lookup(name, {each: DTYPES[each] for each in ("bf16", "fp32")}, "precision")
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32
