"""`openvla convert`: a checkpoint in another format, with an adapter merged, or what of it runs beside a camera."""

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
    format: Literal["hf", "prismatic", "edge"] = "hf"
    """hf: a Hugging Face directory of the published classes. prismatic: a native run, config.json and a .pt file. edge:
    only what runs beside a camera whose features travel to a server; it is no whole checkpoint."""
    cut: Literal["encoders", "projector"] = "projector"
    """For the format edge: the last part that runs beside the camera."""
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
    if options.format == "edge":
        return _edge(options)
    if options.cut != "projector":
        raise UsageError(f"--cut {options.cut} says where to divide a policy; give it with --format edge")
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


def _edge(options: Options) -> Result:
    """The part in front of the cut, as it is stored."""
    from openvla.infer.split import save_edge

    plain = Options(options.source, options.target, "edge", options.cut, json=options.json)
    if options != plain:
        raise UsageError(
            "the format edge takes the weights as they are stored; convert to hf with these first, then from there"
        )
    save_edge(options.source, options.target, cut=options.cut)
    size = sum(file.stat().st_size for file in options.target.iterdir())
    found = {"directory": options.target, "format": "edge", "cut": options.cut, "size_bytes": size}
    return Result(found, f"{options.target}: {options.cut} for beside the camera, {size / 1e9:.2f} GB")
