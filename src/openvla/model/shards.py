"""Weights of a Hugging Face directory, written in one file or in shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from openvla.model.lazy import LazyTensor, nbytes
from openvla.model.safetensors_file import write_safetensors
from openvla.model.weights import INDEX, WEIGHTS

SHARD_BYTES = 5_000_000_000


def write_weights(directory: Path, tensors: Mapping[str, LazyTensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Write the tensors in their order into files of at most `shard_bytes` each; a larger tensor has one to itself.

    Raises OSError where the disk refuses.
    """
    shards = split(tensors, shard_bytes)
    if len(shards) == 1:
        write_safetensors(directory / WEIGHTS, tensors)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / name, shard)
        places |= dict.fromkeys(shard, name)
    index = {
        "metadata": {"total_size": sum(map(nbytes, tensors.values()))},
        "weight_map": dict(sorted(places.items())),
    }
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def split(tensors: Mapping[str, LazyTensor], limit: int) -> list[dict[str, LazyTensor]]:
    """The tensors in their order, cut where the next one would exceed `limit` bytes."""
    shards: list[dict[str, LazyTensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + nbytes(tensor) > limit:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += nbytes(tensor)
    return shards
