"""What a training run is: one frozen record, written beside its results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """A training or fine-tuning run. The defaults fine-tune; recipes set what pre-training needs."""

    data: Path
    """Directory of a data set of any format (RLDS: or one above it); with a mixture, the directory of its data sets."""
    output: Path
    """Directory of the run: metrics.jsonl, tensorboard/, checkpoints/ and, at the end, final/."""
    checkpoint: str
    """Where the weights start: a directory, a shipped name, a hub id, "preset:nano" for random weights, or with
    "preset:" a vision-language model of the registry (prism-dinosiglip-224px+7b, ...), put together from its parts."""
    language_model: str | None = None
    """With "preset:NAME": the language model to take, a Hugging Face directory or a hub id; where omitted, the one that
    the registry names."""
    vision_weights: tuple[Path, ...] = ()
    """With "preset:NAME": the timm, Meta or open_clip file of each vision encoder; the hub's where omitted."""
    dataset: str = "metaworld"
    """Name of the data set's record, which says how its steps become actions."""
    mixture: str | None = None
    """Instead of one data set, a mixture's name, or data sets with weights: "bridge_orig=1.0,metaworld=0.5"; `data` is
    then the directory that holds each of them under its name."""
    image_text: Path | None = None
    """Conversations about images to train on as well, in LLaVA's JSON: the file, or a directory with chat.json."""
    image_text_images: Path | None = None
    """The directory that the paths of their images begin at; that of the file where omitted."""
    image_text_ratio: float = 0.5
    """Share of the examples that are such conversations; with 1 there are no others, and `data` is not read."""
    image_text_tokens: int = 2048
    """Tokens of text after which such a conversation is cut off."""
    captions: bool = False
    """Take the answer of each conversation alone, as the caption of its image."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with a frame, episode, shard or conversation that cannot be used: stop, or leave it out and say so at
    the end."""
    augment: bool = False
    """Crop images and change their colours at random, as published; the crop is recorded for inference."""
    fast_images: bool = False
    """Decode stored JPEGs at a reduced scale: faster, and some 2 levels off the published pixels on average."""
    workers: int = 2
    """Threads that read and decode images ahead of the training."""
    method: Literal["full", "frozen-vision", "last-layer", "sandwich", "align", "lora", "qlora"] = "full"
    """What is trained: every weight; all but the vision encoders; the vocabulary matrices and the last decoder layer;
    these, vision encoders and projector; the projector alone; low-rank adapters on every linear layer; or these over a
    language model of four bits a weight (NF4)."""
    rank: int = 32
    """Rank of the adapters of LoRA and QLoRA."""
    double_quantization: bool = False
    """QLoRA: store the scales of the four-bit weights in eight bits; 0.4 bits a weight less."""
    steps: int = 1000
    """Optimiser steps in all."""
    batch_size: int = 16
    """Examples per step, of all processes together."""
    accumulate: int = 1
    """Parts in which each process works through its share of a step, one after the other; more need less memory."""
    checkpoint_activations: bool = False
    """Compute the decoder's activations twice instead of keeping them: slower by a quarter, much less memory."""
    compile: bool = False
    """Compile the layers (torch.compile): a slow first step, faster ones after it."""
    shard: int = 0
    """With torchrun: processes that share one copy of the model (FSDP); 0 is all, fewer make several copies (HSDP)."""
    preflight_timeout_s: float = 120.0
    """With torchrun: the longest wait for the other processes before the first step."""
    learning_rate: float = 5e-4
    """Peak learning rate. Published: 2e-5 for full, 5e-4 for LoRA."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Constant as published, or cosine to zero; either after the warm-up."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 0.0
    """AdamW weight decay of matrices; vectors and biases have none."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradient."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast over fp32 weights, or fp32; auto takes bf16 where the hardware has it."""
    device: str = "auto"
    """Torch device; auto takes the GPU where there is one."""
    seed: int = 7
    """Orders the data and draws new weights."""
    hold_out: int = 20
    """Without a split "val", every so many-th episode is only validated on; 0 turns validation off."""
    validation_frames: int = 512
    """At most so many frames are used for a validation."""
    validate_every: int = 500
    """Steps between validations."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept; older ones are removed."""
    log_every: int = 20
    """Steps between log lines."""
    sinks: str = "tensorboard"
    """Where metrics go besides metrics.jsonl: any of tensorboard, wandb and trackio, as in "tensorboard,wandb"; or
    none."""
    doctor: bool = False
    """Before the first step, check on ten frames that the policy will see in use what it sees in training."""
    resume: bool = False
    """Continue from the newest checkpoint of `output`."""
    force: bool = False
    """Resume with other settings than the run began with."""


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run, by name, without what options of a command add."""
    return {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
