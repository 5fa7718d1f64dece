"""A checkpoint directory: the model, its codec and its config, loaded strictly and saved atomically.

Weights are memory-mapped: loading reads what the first forward pass touches. Every tensor must be present, of the right
shape, and none may be left over; nothing is guessed from a file name.

    config.json, model.safetensors (or shards and model.safetensors.index.json), tokenizer.json,
    dataset_statistics.json, codec.json (absent from published directories, whose codec is in their other files)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openvla.codec.codec import Codec
from openvla.codec.fields import OBJECT, TEXT, read_json, some_fields
from openvla.errors import CheckpointError
from openvla.files import new_directory, write_text
from openvla.model.presets import Preset
from openvla.model.prismatic import OpenVLA
from openvla.model.published import read_model_config, write_config
from openvla.nn.hardware import pick_device

CONFIG, WEIGHTS, INDEX, CODEC = "config.json", "model.safetensors", "model.safetensors.index.json", "codec.json"
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
    config = cast("dict[str, Any]", read_json(directory / CONFIG))
    with torch.device("meta"):
        model = OpenVLA(read_model_config(config, str(directory / CONFIG)))
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
    text, path = str(source), Path(source).expanduser()
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


def read_weights(directory: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a directory, memory-mapped, exactly those of `expected` by name and shape, or CheckpointError."""
    weights: dict[str, Tensor] = {}
    for path, names in _weight_files(directory).items():
        try:
            with safe_open(path, framework="pt") as file:
                present = set(file.keys())
                for name in present if names is None else names:
                    if name not in present:
                        raise CheckpointError(
                            f"{path} lacks the tensor {name!r} that {INDEX} promises; restore the file"
                        )
                    weights[name] = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path} ({error}); it is damaged or incomplete, restore it") from error
    _check_tensors(weights, expected, directory)
    return weights


def _check_tensors(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], directory: Path) -> None:
    for name, wanted in expected.items():
        if name not in weights:
            absent = sum(name not in weights for name in expected)
            raise CheckpointError(
                f"{directory} lacks the tensor {name!r} of shape {list(wanted.shape)} ({absent} absent in all); "
                "its weights do not belong to its config.json"
            )
        found = weights[name]
        if found.shape != wanted.shape:
            raise CheckpointError(
                f"{directory}: tensor {name!r} has shape {list(found.shape)}, but config.json asks for "
                f"{list(wanted.shape)}; weights and config belong to different models"
            )
        if not found.is_floating_point():
            raise CheckpointError(f"{directory}: tensor {name!r} is {found.dtype}; weights are floating-point numbers")
    extra = sorted(set(weights) - set(expected))
    if extra:
        raise CheckpointError(
            f"{directory} holds {len(extra)} tensors that its config.json has no place for, such as {extra[0]!r}; "
            "weights and config belong to different models"
        )


def _weight_files(directory: Path) -> dict[Path, list[str] | None]:
    """Weight files with the tensors each must hold; None stands for all it holds."""
    if (directory / WEIGHTS).is_file():
        return {directory / WEIGHTS: None}
    if not (directory / INDEX).is_file():
        raise CheckpointError(f"{directory} has neither {WEIGHTS} nor {INDEX}; the weights are missing")
    where = str(directory / INDEX)
    shards = some_fields(read_json(directory / INDEX), {"weight_map": OBJECT}, where)["weight_map"]
    files: dict[Path, list[str] | None] = {}
    for name, shard in some_fields(shards, dict.fromkeys(shards, TEXT), where).items():
        path = directory / shard
        if Path(shard).name != shard or not path.is_file():
            raise CheckpointError(f"{where} places {name!r} in {shard!r}, which is no file of {directory}; restore it")
        names = files.setdefault(path, [])
        assert names is not None
        names.append(name)
    return files


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
