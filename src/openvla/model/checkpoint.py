"""A checkpoint directory: the model, its codec and its config, loaded strictly and saved atomically.

Nothing is guessed from a file name, and parts that do not belong together are refused.

    config.json, model.safetensors (or shards and model.safetensors.index.json), tokenizer.json,
    dataset_statistics.json, codec.json (absent from published directories, whose codec is in their other files)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import save_file

from openvla.codec.codec import Codec
from openvla.codec.fields import read_object
from openvla.errors import CheckpointError
from openvla.files import new_directory, write_text
from openvla.model.presets import Preset
from openvla.model.prismatic import ModelConfig, OpenVLA
from openvla.model.published import read_model_config, write_config
from openvla.model.weights import WEIGHTS, read_weights
from openvla.nn.hardware import pick_device

CONFIG, CODEC = "config.json", "codec.json"
SHIPPED = Path(__file__).resolve().parent.parent / "shipped"


@dataclass
class Checkpoint:
    """A model, the codec it was trained with, and its config.json as a dict."""

    model: OpenVLA
    codec: Codec
    config: dict[str, Any]


def load_checkpoint(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Load a checkpoint from a directory, a shipped name ("nano") or a hub id ("openvla/openvla-7b").

    device: where the weights go. dtype: of the weights; None keeps the stored one.
    revision: a branch, tag or commit of a hub id.
    Raises CheckpointError, in one sentence, for everything that is absent, damaged or of another architecture;
    DataError for damaged statistics; UsageError for a device that cannot be used.
    """
    place = pick_device(str(device))
    directory = resolve(source, revision)
    config = read_object(directory / CONFIG)
    model = _without_memory(read_model_config(config, str(directory / CONFIG)), directory / CONFIG)
    model.load_state_dict(read_weights(directory, model.state_dict()), assign=True)
    codec = Codec.load(directory) if (directory / CODEC).is_file() else Codec.from_published(config, directory)
    _check_agreement(model, codec, directory)
    return Checkpoint(model.to(device=place, dtype=dtype).eval(), codec, config)


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


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """The directory behind a path, a shipped name or a hub id, downloading the latter. Raises CheckpointError."""
    text, path = str(source), Path(source)
    shipped = SHIPPED / text
    if path.is_dir():
        directory = path
    elif re.fullmatch(r"[\w-]+", text) and shipped.is_dir():
        directory = shipped
    elif not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith("."):
        directory = _download(text, revision)
    else:
        names = ", ".join(sorted(entry.name for entry in SHIPPED.iterdir())) if SHIPPED.is_dir() else "none"
        raise CheckpointError(
            f"there is no checkpoint {text!r}: it is no directory, no shipped policy ({names}) and no hub id such as "
            "'openvla/openvla-7b'"
        )
    if not (directory / CONFIG).is_file():
        raise CheckpointError(f"{directory} is not a checkpoint: it has no {CONFIG}; give the directory that holds it")
    return directory


def _without_memory(config: ModelConfig, path: Path) -> OpenVLA:
    try:
        with torch.device("meta"):
            return OpenVLA(config)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its sizes are beyond any memory ({error}); restore the original file"
        ) from error


def _check_agreement(model: OpenVLA, codec: Codec, directory: Path) -> None:
    config = model.config
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


def _download(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub client raises types of several libraries
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"there is no directory {name!r}, and no checkpoint of that name comes from the hub "
            f"({reason[0] if reason else type(error).__name__}); check the name and the connection"
        ) from error
