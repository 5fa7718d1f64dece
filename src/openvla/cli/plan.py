"""`openvla plan`: what a training run will need, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from openvla.cli.output import Result, table
from openvla.errors import UsageError

if TYPE_CHECKING:
    from openvla.model.prismatic import ModelConfig


@dataclass(frozen=True)
class Options:
    """Parameters, memory, the largest batch and hours of a training run, without loading a weight."""

    checkpoint: str | None = None
    """A hub id, a checkpoint directory, or a shipped name; this or --preset."""
    preset: str | None = None
    """A model by name: openvla-7b, openvla-v01-7b, nano, or an id of the published registry; this or --checkpoint."""
    method: str = "full"
    """What is trained: full, frozen-vision, last-layer, sandwich, align, lora or qlora."""
    rank: int = 32
    """Rank of the LoRA adapters."""
    batch: int = 16
    """Examples per device and step."""
    tokens: int = 32
    """Text tokens per example; the patches come on top."""
    supervised: int = 8
    """Tokens per example that have a label: the action's, and the stop token."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the forward pass; trained weights are fp32 either way."""
    world_size: int = 1
    """Devices that share weights, gradients and optimiser (FSDP)."""
    shard: int = 0
    """Devices that share one copy of the model; 0 is all, fewer make several copies (HSDP)."""
    accumulate: int = 1
    """Parts in which a device works through its batch, one after the other."""
    checkpointing: bool = False
    """Keep only the inputs of the decoder's layers, and compute the rest again."""
    card_gb: float = 80.0
    """Memory of one device, in GiB."""
    card_tflops: float = 989.0
    """Dense operations of one device in 10^12 per second; 989 is an H100's in bf16."""
    mfu: float = 0.4
    """Share of these operations that goes into the model."""
    examples: int | None = None
    """Examples seen in the whole run; gives the hours."""
    dollars_per_hour: float | None = None
    """Price of one device; gives the dollars."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Count and estimate."""
    model = _model(options)
    from openvla.train.memory import Load
    from openvla.train.plan import Hardware, plan

    load = Load(
        options.batch,
        options.tokens,
        options.supervised,
        options.precision,
        options.world_size,
        options.checkpointing,
        options.accumulate,
        options.shard,
    )
    hardware = Hardware(options.card_gb, options.card_tflops, options.mfu, options.dollars_per_hour)
    data = plan(model, options.method, options.rank, load, hardware, options.examples)
    return Result({"model": options.preset or options.checkpoint, **data}, _readable(options, data))


def _model(options: Options) -> ModelConfig:
    if options.preset is not None and options.checkpoint is not None:
        raise UsageError(f"give --preset {options.preset} or --checkpoint {options.checkpoint}, not both")
    if options.preset is not None:
        from openvla.errors import lookup
        from openvla.model.presets import PRESETS

        return lookup(options.preset, PRESETS, "preset").model
    if options.checkpoint is None:
        raise UsageError("plan needs --checkpoint C or --preset P (openvla-7b, nano, ...)")
    from openvla.model.architecture import read_architecture

    return read_architecture(options.checkpoint)


def _readable(options: Options, data: dict[str, Any]) -> str:
    parameters, memory = data["parameters"], data["memory_bytes"]
    share = 100 * parameters["trainable"] / parameters["total"]
    lines = [
        table(("parameters", "number"), [(name.replace("_", " "), f"{n}") for name, n in parameters.items()]),
        f"{share:.2f} % of the parameters are trained ({options.method})",
        "",
        table(("memory of one device", "GiB"), [(name, f"{size / 2**30:.2f}") for name, size in memory.items()]),
        f"batch {options.batch}, {options.precision}; gradients come as activations go: the peak is less than the sum",
        "",
        f"largest batch in {options.card_gb:g} GiB: {data['largest_batch']}",
    ]
    if "hours" in data:
        lines.append(f"hours: {data['hours']:.3g} on {options.world_size} device(s) at {options.mfu:.0%} MFU")
    if "dollars" in data:
        lines.append(f"dollars: {data['dollars']:.4g}")
    return "\n".join(lines)
