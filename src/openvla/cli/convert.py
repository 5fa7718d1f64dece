"""`openvla convert`: a checkpoint from one format into another, or with an adapter merged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from openvla.cli.output import Result
from openvla.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Write a checkpoint in a published format, as a stream: memory does not grow with the model."""

    source: Annotated[str, tyro.conf.Positional]
    """A hub id, a checkpoint directory, a .pt file of a native run, a shipped name such as "nano", or a saved step of a
    training run (OUTPUT/checkpoints/step-N)."""
    target: Annotated[Path, tyro.conf.Positional]
    """Directory to write; it must not exist yet."""
    format: Literal["hf", "prismatic"] = "hf"
    """hf: a Hugging Face directory of the published classes. prismatic: a native run, config.json and a .pt file."""
    adapter: Path | None = None
    """A peft directory (LoRA) to merge, in float32."""
    dtype: Literal["keep", "bf16", "fp16", "fp32"] = "keep"
    """Type of the written weights."""
    rms_norm_eps: float | None = None
    """Epsilon to write into config.json; where omitted, the one in force. Published exports of native runs say 1e-6."""
    vision_weights: tuple[Path, ...] = ()
    """For a native run without vision weights: the timm, Meta or open_clip file of each encoder."""
    tokenizer: Path | None = None
    """A directory whose tokenizer files to use; a native run has none of its own."""
    force: bool = False
    """Merge an adapter that was merged before, or was trained on other weights."""
    no_verify: bool = False
    """Do not compare the merged model's logits with those of base and adapter."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Convert, and say what was written."""
    from openvla.model.convert import convert
    from openvla.train.export import export, is_step

    if is_step(Path(options.source)):
        if dataclasses.replace(options, json=False) != Options(options.source, options.target):
            raise UsageError(f"{options.source} is a saved step of a run; export it as hf first, then convert that")
        export(Path(options.source), options.target)
        return Result({"directory": options.target, "format": "hf"}, f"{options.target}: exported from a training run")
    done = convert(
        options.source,
        options.target,
        options.format,
        adapter=options.adapter,
        dtype=options.dtype,
        rms_norm_eps=options.rms_norm_eps,
        vision_weights=options.vision_weights,
        tokenizer=options.tokenizer,
        force=options.force,
        verify=not options.no_verify,
    )
    lines = [f"{options.target}: {done.tensors} tensors, {done.size_bytes / 1e9:.2f} GB, {options.format}", *done.notes]
    return Result(done.to_dict(), "\n".join(lines))
