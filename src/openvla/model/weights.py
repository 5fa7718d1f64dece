"""The tensors of a Hugging Face directory, in one file or in shards with an index, checked against the model's.

They are memory-mapped: a page is read from disk when a forward pass first touches it. Every tensor must be present, of
the right shape, and none may be left over; a shard must hold exactly what the index places in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from openvla.codec.fields import OBJECT, TEXT, read_object, some_fields
from openvla.errors import CheckpointError
from openvla.model.lazy import LazyTensor
from openvla.model.safetensors_file import read_safetensors
from openvla.model.torch_file import STORAGES, flatten, read_torch

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_WEIGHTS, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def open_weights(directory: Path) -> dict[str, LazyTensor]:
    """The tensors of a directory, in safetensors or else in files of torch.save, or CheckpointError."""
    for whole, index in ((WEIGHTS, INDEX), (TORCH_WEIGHTS, TORCH_INDEX)):
        if (directory / whole).is_file():
            return read_tensors(directory / whole)
        if (directory / index).is_file():
            return _read_shards(directory, index)
    raise CheckpointError(f"{directory} has neither {WEIGHTS} nor {INDEX}; the weights are missing")


def read_tensors(path: Path) -> dict[str, LazyTensor]:
    """All tensors of a .safetensors file or else of a file of torch.save, nested names joined by dots."""
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path))
    return dict(flatten(read_torch(path)))


def read_weights(directory: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a directory, memory-mapped, exactly those of `expected` by name and shape, or CheckpointError."""
    tensors = open_weights(directory)
    check_tensors(tensors, expected, directory)
    return {name: tensor.mapped() for name, tensor in tensors.items()}


def check_tensors(tensors: Mapping[str, LazyTensor], expected: Mapping[str, Tensor], where: Path) -> None:
    """Raise CheckpointError unless `tensors` are those of `expected` by name and shape, and floating-point numbers."""
    for name, wanted in expected.items():
        if name not in tensors:
            absent = sum(name not in tensors for name in expected)
            raise CheckpointError(
                f"{where} lacks the tensor {name!r} of shape {list(wanted.shape)} ({absent} absent in all); "
                "its weights do not belong to its config.json"
            )
        found = tensors[name]
        if found.shape != tuple(wanted.shape):
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {list(found.shape)}, but config.json asks for "
                f"{list(wanted.shape)}; weights and config belong to different models"
            )
        if found.dtype not in STORAGES:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {found.dtype}; weights are floating-point numbers of 16, 32 or 64 bits"
            )
    extra = sorted(set(tensors) - set(expected))
    if extra:
        raise CheckpointError(
            f"{where} holds {len(extra)} tensors that its config.json has no place for, such as {extra[0]!r}; "
            "weights and config belong to different models"
        )


def _read_shards(directory: Path, index: str) -> dict[str, LazyTensor]:
    promised = _shards(directory, index)
    held = {path: read_tensors(path) for path in promised}
    for path, names in promised.items():
        for name in names - set(held[path]):
            raise CheckpointError(f"{path} lacks the tensor {name!r} that {index} promises; restore the file")
    for path, tensors in held.items():
        for name in set(tensors) - promised[path]:
            raise CheckpointError(
                f"{path} holds the tensor {name!r}, which {index} does not place there; shards and index belong to "
                "different models, restore them"
            )
    return {name: tensor for tensors in held.values() for name, tensor in tensors.items()}


def _shards(directory: Path, index: str) -> dict[Path, set[str]]:
    """The shards with the names of the tensors that each must hold."""
    where = str(directory / index)
    places = some_fields(read_object(directory / index), {"weight_map": OBJECT}, where)["weight_map"]
    files: dict[Path, set[str]] = {}
    for name, shard in some_fields(places, dict.fromkeys(places, TEXT), where).items():
        path = directory / shard
        if Path(shard).name != shard or "\0" in shard or not path.is_file():
            raise CheckpointError(f"{where} places {name!r} in {shard!r}, which is no file of {directory}; restore it")
        files.setdefault(path, set()).add(name)
    return files
