"""The memory of a training step on one device, component by component, before anything is loaded.

Trained weights, their gradients and AdamW's two moments are float32; weights that stay as they are have the type of the
forward pass, or 4 bits for QLoRA. With bfloat16 the forward pass casts each trained matrix and keeps the cast until its
gradient is there. Several devices (FSDP) each hold a share of weights, gradients and moments, and gather two layers
at a time.

The peak is where the backward pass begins (everything kept, no gradient yet) or where it ends (the reverse).
Source: Rajbhandari et al. 2020 (ZeRO), section 3; Dettmers et al. 2023 (QLoRA), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla.errors import UsageError
from openvla.model.prismatic import ModelConfig
from openvla.train.activations import FLOAT32, Method, kept_per_example
from openvla.train.census import Census

MARGIN = 0.05
"""Share of all else that the allocator loses to fragments and operations to scratch space."""

NF4_BYTES = 0.5 + FLOAT32 / 64
"""Per weight: four bits, and one float32 scale for each block of 64."""

WIDTHS = {"bf16": 2, "fp32": FLOAT32}


@dataclass(frozen=True)
class Load:
    """What one device is asked to do in a step.

    batch: examples per device. text_tokens: ids per example. supervised: of them, those with a label.
    precision: a key of `WIDTHS`. checkpointing: of the decoder's activations.
    """

    batch: int = 16
    text_tokens: int = 32
    supervised: int = 8
    precision: str = "bf16"
    world_size: int = 1
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "text_tokens", "supervised", "world_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give a whole number from 1")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device for one step. per_example: of activations and logits. casts: of trained matrices."""

    weights: int
    gradients: int
    optimizer: int
    casts: int
    activations_per_example: int
    logits_per_example: int

    def components(self, batch: int) -> dict[str, int]:
        """Bytes by component, and `peak`: the most that is held at once, with a margin.

        Less than the sum, since gradients come as activations go.
        """
        activations, logits = batch * self.activations_per_example, batch * self.logits_per_example
        held = self.weights + self.optimizer + max(self.casts + activations + logits, self.gradients)
        margin = int(MARGIN * held)
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "casts": self.casts,
            "activations": activations,
            "logits": logits,
            "margin": margin,
            "peak": held + margin,
        }

    def largest_batch(self, capacity: float) -> int:
        """Examples per device that fit in `capacity` bytes; 0 where not even one does."""
        room = capacity / (1 + MARGIN) - self.weights - self.optimizer
        if room < self.gradients:
            return 0
        return max(0, int((room - self.casts) // (self.activations_per_example + self.logits_per_example)))


def step_memory(config: ModelConfig, counted: Census, method: str, rank: int, load: Load) -> Memory:
    """The memory of one training step of `method`, whose parameters are `counted`."""
    width, trained = WIDTHS[load.precision], counted.count(trained=True)
    kept = kept_per_example(config, Method.named(method, rank, width), load.text_tokens, load.checkpointing)
    rows = load.supervised * config.decoder.vocab_size
    return Memory(
        weights=(FLOAT32 * trained + _frozen_bytes(counted, method, width)) // load.world_size,
        gradients=FLOAT32 * trained // load.world_size,
        optimizer=2 * FLOAT32 * trained // load.world_size,
        casts=_casts(config, counted, width, load.world_size),
        activations_per_example=kept,
        logits_per_example=3 * FLOAT32 * rows,  # the logits, their log-softmax, and the gradient
    )


def _frozen_bytes(counted: Census, method: str, width: int) -> int:
    frozen = counted.count(trained=False)
    if method != "qlora":
        return width * frozen
    packed = counted.count("language_model.layers", trained=False, matrix=True)
    return int(NF4_BYTES * packed) + width * (frozen - packed)


def _casts(config: ModelConfig, counted: Census, width: int, world_size: int) -> int:
    """Bytes of trained matrices in bfloat16, or of the two layers that one of several devices gathers."""
    if world_size > 1:
        return 2 * width * counted.count("language_model.layers") // config.decoder.num_hidden_layers
    return 0 if width == FLOAT32 else width * counted.count(trained=True, matrix=True)
