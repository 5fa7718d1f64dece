"""What a run will need, before it starts: parameters, memory, the batch that fits, hours and their price.

Work is counted as two operations per weight of a linear layer and position (Kaplan et al. 2020, section 2.1): once
forward, once more for the gradient that passes through, and once more for the weight's own. What never runs (the last
block of an encoder), attention scores and the output head are left out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from openvla.errors import UsageError, lookup
from openvla.model.prismatic import ModelConfig
from openvla.train.activations import Method, Mode
from openvla.train.census import Census, census
from openvla.train.memory import WIDTHS, Load, step_memory

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """The cards of a run.

    card_gb: memory of one, in GiB. card_tflops: dense operations per second of one at the run's precision, in 10^12.
    mfu: share of them that goes into the model.
    """

    card_gb: float = 80.0
    card_tflops: float = 989.0
    mfu: float = 0.4
    dollars_per_hour: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.card_gb < math.inf and 0 < self.card_tflops < math.inf and 0 < self.mfu <= 1):
            raise UsageError(
                f"card_gb is {self.card_gb}, card_tflops {self.card_tflops} and mfu {self.mfu}; the first two must be "
                "above 0, the last in 0..1"
            )
        if self.dollars_per_hour is not None and not 0 <= self.dollars_per_hour < math.inf:
            raise UsageError(f"dollars_per_hour is {self.dollars_per_hour}; give 0 or more")


def plan(
    config: ModelConfig, method: str, rank: int, load: Load, hardware: Hardware, examples: int | None = None
) -> dict[str, Any]:
    """Everything `openvla plan` prints, by name.

    examples: seen in the whole run; without it there are no hours. Raises UsageError for an unknown method or
    precision, and for a rank below 1.
    """
    lookup(load.precision, WIDTHS, "precision")
    counted = census(config, method, rank)
    memory = step_memory(config, counted, method, rank, load)
    flops = training_flops(config, counted, load.text_tokens)
    found: dict[str, Any] = {
        "method": method,
        "parameters": parameters(counted),
        "memory_bytes": memory.components(load.batch),
        "largest_batch": memory.largest_batch(hardware.card_gb * GIB),
        "load": asdict(load),
        "hardware": asdict(hardware),
        "flops_per_example": flops,
    }
    if examples is None:
        return found
    if examples < 1:
        raise UsageError(f"examples is {examples}; give a whole number from 1")
    hours = flops * examples / (hardware.mfu * hardware.card_tflops * 1e12 * load.world_size) / 3600
    found["hours"] = hours
    if hardware.dollars_per_hour is not None:
        found["dollars"] = hours * load.world_size * hardware.dollars_per_hour
    return found


def parameters(counted: Census) -> dict[str, int]:
    """Exact numbers: total (adapters included) and trainable, and the parts of the total."""
    parts = {part: counted.count(part) for part in ("vision_backbone", "projector", "language_model", "adapters")}
    return {"total": counted.count(), "trainable": counted.count(trained=True), **parts}


def training_flops(config: ModelConfig, counted: Census, text_tokens: int) -> float:
    """Operations of one training step per example of `text_tokens` ids."""
    modes = Method.of(counted, 1, 2)
    vision = sum((e.depth - 1) * (4 * e.dim**2 + 2 * e.dim * e.mlp_dim) for e in config.encoders)
    layers = counted.count("language_model.layers")
    last = layers // config.decoder.num_hidden_layers
    flows = modes.vision is not None or modes.projector.trained
    patches, tokens = config.num_patches, config.num_patches + text_tokens
    return 2.0 * (
        patches * vision * _passes(modes.vision)
        + patches * counted.count("projector") * (_passes(modes.projector) if flows else 1)
        + tokens * ((layers - last) * _passes(modes.layers) + last * _passes(modes.last_layer))
    )


def _passes(mode: Mode | None) -> int:
    """Forward; and backward to the inputs; and to the weights."""
    return 1 if mode is None else 3 if mode.trained else 2
