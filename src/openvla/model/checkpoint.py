"""A checkpoint of any published format, loaded strictly: the model, its codec and its config; and saved atomically.

    config.json, model.safetensors (or shards and model.safetensors.index.json), tokenizer.json,
    dataset_statistics.json, codec.json (absent from published directories, whose codec is in their other files)

Nothing is guessed from a file name, and parts that do not belong together are refused. Weights stay mapped to their
file until they are touched, unless another type or device is asked for. Every load looks for values that are not finite
and, where a fingerprint lies beside the weights, for weights that changed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from openvla.codec.codec import Codec
from openvla.errors import CheckpointError
from openvla.files import new_directory, write_text
from openvla.model.adapters import ADAPTER_CONFIG, base_of, merge_adapter, read_adapter
from openvla.model.fingerprint import check_sample
from openvla.model.locate import CONFIG
from openvla.model.presets import Preset
from openvla.model.prismatic import OpenVLA
from openvla.model.published import write_config
from openvla.model.source import Source, check_finite, common_dtype, dtypes_of, empty_model, open_source
from openvla.model.weights import WEIGHTS
from openvla.nn.hardware import pick_device


@dataclass
class Checkpoint:
    """A model, the codec it was trained with, and its config.json as a dict, in published words."""

    model: OpenVLA
    codec: Codec
    config: dict[str, Any]


def load_checkpoint(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    vision_weights: Sequence[str | Path] = (),
) -> Checkpoint:
    """Load a checkpoint from a directory, a .pt file, a shipped name ("nano") or a hub id ("openvla/openvla-7b").

    source: a Hugging Face directory, a Prismatic-native run, or an adapter directory that names its base.
    device: where the weights go.
    dtype: of the weights; None keeps the stored one. Where several are stored, a model cannot compute with them: None
        takes the narrowest that holds all of their values, and warns.
    revision: a branch, tag or commit of a hub id.
    vision_weights: for a native run without vision weights, the timm, Meta or open_clip file of each encoder; where
        omitted, the hub's.
    Raises CheckpointError, in one sentence, for everything that is absent, damaged or of another architecture;
    DataError for damaged statistics; UsageError for a device that cannot be used.
    """
    place = pick_device(str(device))
    adapter = Path(source) if (Path(source) / ADAPTER_CONFIG).is_file() else None
    opened = open_source(base_of(adapter) if adapter else source, revision=revision, vision_weights=vision_weights)
    if adapter is not None:
        opened = merge_adapter(opened, read_adapter(adapter))
    codec = opened.read_codec()
    check_agreement(codec, opened)
    model = load_model(opened, dtype, fingerprinted=adapter is None)
    return Checkpoint(model.to(device=place).eval(), codec, opened.config)


def load_model(opened: Source, dtype: torch.dtype | None = None, *, fingerprinted: bool = True) -> OpenVLA:
    """The model with its weights, mapped where they are of type `dtype` (None: the stored one), and checked."""
    wanted = dtype or common_dtype(opened.tensors)
    if dtype is None and len({tensor.dtype for tensor in opened.tensors.values()}) > 1:
        warnings.warn(
            f"{opened.directory} stores its weights as {dtypes_of(opened.tensors)}; all are loaded as "
            f"{str(wanted).removeprefix('torch.')} (give a dtype to choose another)",
            stacklevel=3,
        )
    weights = {name: tensor.mapped() for name, tensor in opened.tensors.items()}
    check_finite(weights, opened.directory)
    if fingerprinted:
        check_sample(weights, opened.directory)
    model = empty_model(opened.model, opened.directory / CONFIG)
    model.load_state_dict({name: tensor.to(wanted) for name, tensor in weights.items()}, assign=True)
    return model


def new_checkpoint(preset: Preset, codec: Codec, seed: int) -> Checkpoint:
    """An untrained model with random weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OpenVLA(preset.model)
    return Checkpoint(model, codec, write_config(preset))


def save_checkpoint(directory: str | Path, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
    """Write a new checkpoint directory, whole or not at all.

    dtype: of the stored weights; None keeps the model's.
    Raises CheckpointError where the directory exists or cannot be written.
    """
    weights = {
        name: tensor.detach().to(device="cpu", dtype=dtype).contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
    }
    with new_directory(Path(directory), CheckpointError) as place:
        write_text(place / CONFIG, json.dumps(checkpoint.config, indent=2) + "\n", CheckpointError)
        checkpoint.codec.save(place)
        try:
            save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise CheckpointError(f"cannot write {directory}: {error}; is the disk full?") from error


def check_agreement(codec: Codec, opened: Source) -> None:
    """Raise CheckpointError where codec and weights cannot belong together."""
    directory, config = opened.directory, opened.model
    if codec.images.sizes != tuple(encoder.image_size for encoder in config.encoders):
        raise CheckpointError(
            f"{directory}: the images are prepared at {list(codec.images.sizes)} px, but the encoders take "
            f"{[encoder.image_size for encoder in config.encoders]}; codec and weights belong to different models"
        )
    rows = config.decoder.vocab_size
    tokens = {name: getattr(codec, f"{name}_token_id") or 0 for name in ("bos", "eos", "pad", "suffix")}
    for name, token in (tokens | {"last action": codec.actions.vocab_size - 1}).items():
        if token >= rows:
            raise CheckpointError(
                f"{directory}: the {name} token is {token}, but the embedding has only {rows} rows; codec and weights "
                "belong to different models"
            )
    if codec.tokenizer is None:
        return
    last = max(codec.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not codec.actions.vocab_size - 1 <= last < rows:
        raise CheckpointError(
            f"{directory}: the ids of tokenizer.json end at {last}, but those of the language model at "
            f"{codec.actions.vocab_size - 1} (the last action token), and the embedding has {rows} rows; use the "
            "tokenizer.json that belongs to the checkpoint"
        )
