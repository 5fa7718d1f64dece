"""The memory of a training step on one device, component by component, before anything is loaded.

Trained weights, their gradients and AdamW's two moments are float32; weights that stay as they are have the type of the
forward pass, or 4 bits for QLoRA. What never runs (the last block of an encoder) has weights, and neither gradients nor
moments. With bfloat16 the forward pass casts each trained matrix and keeps the cast until its gradient is there. Of
several devices (FSDP) each holds a share of weights, gradients and moments; four-bit weights are not shared out.

The peak is where activations that are still there and gradients that are there already are most together.
Source: Rajbhandari et al. 2020 (ZeRO), section 3; Dettmers et al. 2023 (QLoRA), section 3; Zhao et al. 2023 (FSDP),
section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla.errors import UsageError
from openvla.model.prismatic import ModelConfig
from openvla.train.activations import FLOAT32
from openvla.train.census import Census
from openvla.train.segments import Segment, segments

MARGIN = 0.05
"""Share of all else that the allocator loses to fragments and operations to scratch space."""

NF4_BYTES = 0.5 + FLOAT32 / 64
"""Per weight: four bits, and one float32 scale for each block of 64."""

WIDTHS = {"bf16": 2, "fp32": FLOAT32}

LOGITS = 4
"""Float32 tensors of the supervised logits where the backward pass begins: they, their log-softmax, both gradients."""


@dataclass(frozen=True)
class Load:
    """What one device is asked to do in a step.

    batch: examples per device, in `accumulate` parts one after the other. text_tokens: ids per example. supervised: of
    them, those with a label. precision: a key of `WIDTHS`. checkpointing: of the decoder's activations.
    shard: devices that share one copy of the model, of `world_size`; 0: all.
    """

    batch: int = 16
    text_tokens: int = 32
    supervised: int = 8
    precision: str = "bf16"
    world_size: int = 1
    checkpointing: bool = False
    accumulate: int = 1
    shard: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "text_tokens", "supervised", "world_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give a whole number from 1")
        if self.supervised > self.text_tokens:
            raise UsageError(
                f"supervised is {self.supervised} and text_tokens {self.text_tokens}; labels are a part of the tokens"
            )
        if self.batch % self.accumulate:
            raise UsageError(
                f"batch is {self.batch}, which {self.accumulate} micro-batches cannot share evenly; make it a multiple "
                f"of {self.accumulate}"
            )
        if self.shard < 0 or (self.shard and self.world_size % self.shard):
            raise UsageError(
                f"shard is {self.shard}, which does not divide the {self.world_size} devices; give a divisor, or 0 for "
                "all of them"
            )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device for one step.

    gathered: of layers whose slices lie on several devices. logits_per_example: of one float32 tensor of them.
    segments: of the forward pass, in order. accumulate: parts of a step, whose gradients add up.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    logits_per_example: int
    segments: tuple[Segment, ...]
    accumulate: int = 1

    @property
    def activations_per_example(self) -> int:
        """What is kept, and the most that is computed again at once."""
        return sum(each.kept for each in self.segments) + max(each.again for each in self.segments)

    def components(self, batch: int) -> dict[str, int]:
        """Bytes by component for `batch` examples a step, and `peak`: the most held at once, with a margin.

        Less than the sum, since gradients come as activations go.
        """
        part = -(-batch // self.accumulate)
        held = max(fixed + part * each for fixed, each in self._moments())
        margin = int(MARGIN * held)
        casts = sum(each.casts for each in self.segments) + max(each.casts_again for each in self.segments)
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "casts": casts + self.gathered,
            "activations": part * self.activations_per_example,
            "logits": part * LOGITS * self.logits_per_example,
            "margin": margin,
            "peak": held + margin,
        }

    def largest_batch(self, capacity: float) -> int:
        """Examples per device and step that fit in `capacity` bytes; 0 where not even one does."""
        room = capacity / (1 + MARGIN)
        fitting = min(int((room - fixed) // each) for fixed, each in self._moments())
        return self.accumulate * max(0, fitting)

    def _moments(self) -> list[tuple[int, int]]:
        """(bytes, bytes per example of a part) during the backward pass of each segment, before anything of it is gone.

        The logits stay to the end, for the metrics. From the second part of a step on all gradients are there.
        """
        found: list[tuple[int, int]] = []
        held, kept, left = self.weights + self.optimizer + self.gathered, 0, self.gradients
        for segment in self.segments:
            held, kept = held + segment.casts, kept + segment.kept
            there = self.gradients if self.accumulate > 1 else left
            found.append((held + segment.casts_again + there, kept + segment.again + self.logits_per_example))
            left -= segment.gradients
        fixed, each = found[-1]
        found[-1] = fixed, each + (LOGITS - 1) * self.logits_per_example
        return found


def step_memory(config: ModelConfig, counted: Census, method: str, rank: int, load: Load) -> Memory:
    """The memory of one training step of `method`, whose parameters are `counted`."""
    width = WIDTHS[load.precision]
    sliced = load.world_size > 1 and method != "qlora"
    sharers = (load.shard or load.world_size) if sliced else 1
    passed = segments(config, counted, rank, width, load.text_tokens, load.checkpointing)
    gradients = sum(segment.gradients for segment in passed)
    if sliced:  # layers are gathered in the type of the forward pass: nothing is left to cast
        passed = [replace(s, gradients=s.gradients // sharers, casts=0, casts_again=0) for s in passed]
    return Memory(
        weights=(FLOAT32 * counted.count(trained=True) + _frozen_bytes(counted, method, width)) // sharers,
        gradients=gradients // sharers,
        optimizer=2 * gradients // sharers,
        gathered=_gathered(config, counted, width) if sliced else 0,
        logits_per_example=FLOAT32 * load.supervised * config.decoder.vocab_size,
        segments=tuple(passed),
        accumulate=load.accumulate,
    )


def _gathered(config: ModelConfig, counted: Census, width: int) -> int:
    """Bytes of whole tensors, and of their gradients before these are shared out.

    What is in no layer (vocabulary, projector) is gathered for the whole step; of the layers one, and the next ahead of
    its turn. The gradients of one layer are added up in float32.
    """

    def sizes(trained: bool | None) -> tuple[int, int]:
        layer = counted.count("language_model.layers.0.", trained) // max(1, config.decoder.num_hidden_layers - 1)
        stacks = counted.count("language_model.layers.", trained)
        for name in ("featurizer", "fused_featurizer"):
            stacks += counted.count(f"vision_backbone.{name}.blocks.", trained)
        return counted.count("", trained) - counted.count("adapters", trained) - stacks, layer

    (rest, layer), (rest_trained, layer_trained) = sizes(None), sizes(True)
    return width * (rest + rest_trained + 2 * layer + layer_trained) + FLOAT32 * layer_trained


def _frozen_bytes(counted: Census, method: str, width: int) -> int:
    frozen = counted.count(trained=False)
    if method != "qlora":
        return width * frozen
    packed = counted.count("language_model.layers", trained=False, matrix=True)
    return int(NF4_BYTES * packed) + width * (frozen - packed)
