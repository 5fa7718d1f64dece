"""The tensors of a checkpoint directory, in one file or in shards with an index, checked against the model's.

They are memory-mapped: a page is read from disk when a forward pass first touches it. Every tensor must be present, of
the right shape, and none may be left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from openvla.codec.fields import OBJECT, TEXT, read_object, some_fields
from openvla.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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


def _weight_files(directory: Path) -> Mapping[Path, list[str] | None]:
    """Weight files with the tensors each must hold; None stands for all it holds."""
    if (directory / WEIGHTS).is_file():
        return {directory / WEIGHTS: None}
    if not (directory / INDEX).is_file():
        raise CheckpointError(f"{directory} has neither {WEIGHTS} nor {INDEX}; the weights are missing")
    where = str(directory / INDEX)
    shards = some_fields(read_object(directory / INDEX), {"weight_map": OBJECT}, where)["weight_map"]
    files: dict[Path, list[str]] = {}
    for name, shard in some_fields(shards, dict.fromkeys(shards, TEXT), where).items():
        path = directory / shard
        if Path(shard).name != shard or not path.is_file():
            raise CheckpointError(f"{where} places {name!r} in {shard!r}, which is no file of {directory}; restore it")
        files.setdefault(path, []).append(name)
    return files
