"""A packed model in a directory of its own: quantised once, read at every start.

config.json         as in a checkpoint, and `quantization`: {"precision": "int4"}
model.safetensors   the packed model's tensors under its own names, quantised ones in their portable form
tokenizer.json, dataset_statistics.json, codec.json   as in a checkpoint
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openvla.codec.codec import Codec
from openvla.errors import CheckpointError, lookup
from openvla.files import new_directory, write_text
from openvla.infer.packing import placed, plain_parameters, rearrange, release, settled
from openvla.model.checkpoint import Checkpoint
from openvla.model.lazy import LazyTensor, MadeTensor
from openvla.model.locate import CONFIG
from openvla.model.prismatic import OpenVLA
from openvla.model.published import read_model_config
from openvla.model.safetensors_file import read_safetensors, write_safetensors
from openvla.model.source import QUANTIZATION, empty_model, stored_precision
from openvla.model.weights import WEIGHTS
from openvla.nn import amx
from openvla.nn.quantized import PRECISIONS, QuantizedLinear


def save_packed(directory: str | Path, checkpoint: Checkpoint) -> None:
    """Write a quantised, packed checkpoint, whole or not at all.

    Raises CheckpointError where the model is not quantised, the directory exists, or it cannot be written.
    """
    kinds = {type(module) for module in checkpoint.model.modules()}
    precision = next((name for name, kind in PRECISIONS.items() if kind in kinds), None)
    if precision is None:
        raise CheckpointError("the policy is not quantised; load it with quantize='int8', 'int4' or 'fp8' first")
    config = {**checkpoint.config, QUANTIZATION: {"precision": precision}}
    with new_directory(Path(directory), CheckpointError) as place:
        write_text(place / CONFIG, json.dumps(config, indent=2) + "\n", CheckpointError)
        checkpoint.codec.save(place)
        write_safetensors(place / WEIGHTS, _stored_tensors(checkpoint.model))


@torch.no_grad()
def load_stored(directory: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """What `save_packed` wrote; on a CPU without AMX, int4 weights are used where they are mapped.

    dtype: of what is not quantised; None keeps the stored one.
    Raises CheckpointError for tensors that do not belong to the config, UsageError for an unknown precision.
    """
    quantized = lookup(str(stored_precision(config)), PRECISIONS, "precision")
    tensors: dict[str, LazyTensor] = dict(read_safetensors(directory / WEIGHTS))
    plain = empty_model(read_model_config(config, str(directory / CONFIG)), directory / CONFIG)
    model = rearrange(plain, lambda weight, _: quantized(weight.shape[0], weight.shape[1]))
    names = {id(module): name for name, module in model.named_modules()}
    for module, name, _ in plain_parameters(model):
        found = _take(tensors, f"{names[id(module)]}.{name}", directory)
        found = settled(placed(found, device, dtype or found.dtype))
        setattr(module, name, nn.Parameter(found, requires_grad=False))
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            wanted = quantized.encode(torch.zeros(1, 1)).keys() | {
                each.rpartition(".")[2] for each in tensors if each.rpartition(".")[0] == name
            }
            mapped = {each: _take(tensors, f"{name}.{each}", directory) for each in wanted}
            module.fill({each: tensor.to(device) for each, tensor in mapped.items()})
            for tensor in mapped.values():  # what still is used from there will be read again
                release(tensor)
    if tensors:
        name = next(iter(tensors))
        raise CheckpointError(f"{directory} holds the tensor {name!r} that its config.json has no place for")
    amx.with_amx(model)
    return Checkpoint(model, Codec.load(directory), config)


def _take(tensors: dict[str, LazyTensor], name: str, directory: Path) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{directory} lacks the tensor {name!r}; quantise the checkpoint again")
    return tensors.pop(name).mapped()


def _stored_tensors(model: OpenVLA) -> dict[str, LazyTensor]:
    """Every tensor of a packed model by name."""
    names = {id(module): name for name, module in model.named_modules()}
    found = {f"{names[id(module)]}.{name}": _lazy(tensor) for module, name, tensor in plain_parameters(model)}
    for prefix, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            found |= {f"{prefix}.{name}": _lazy_part(module, name, like) for name, like in module.portable().items()}
    return found


def _lazy(tensor: Tensor) -> LazyTensor:
    return MadeTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def _lazy_part(module: QuantizedLinear, name: str, like: Tensor) -> LazyTensor:
    """One tensor of a layer, brought to its portable form when it is written, so that one at a time is in memory."""
    return MadeTensor(like.dtype, tuple(like.shape), lambda: module.portable()[name])
