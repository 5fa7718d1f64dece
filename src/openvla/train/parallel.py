"""A model spread over the processes of a run, and what makes its layers cheaper: recomputation, compilation.

Weights, gradients and optimiser state are sharded (FSDP2): every process holds a slice of each tensor and gathers a
layer at a time. With bfloat16 the gathered copies are bfloat16, the slices stay float32, gradients are added up in
float32. Tensors keep their number of dimensions, so weight decay knows a matrix from a vector. Where fewer processes
share a copy than there are (HSDP), the copies are kept alike. A model in one process is left as it is.

Quantised weights cannot be sliced: a model with them is copied whole, and the gradients of its adapters are averaged.
Source: Zhao et al. 2023 (FSDP), section 3; Chen et al. 2016 (recomputation), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from openvla.errors import UsageError
from openvla.model.prismatic import OpenVLA
from openvla.train.methods import widen
from openvla.train.world import World


def check_shares(world: World, batch_size: int, accumulate: int, shard: int) -> None:
    """Raise UsageError where batch or copies of the model cannot be shared out evenly."""
    if batch_size % (world.size * accumulate):
        raise UsageError(
            f"batch_size is {batch_size}, which cannot be shared evenly (processes: {world.size}, micro-batches of "
            f"each: {accumulate}); make it a multiple of {world.size * accumulate}"
        )
    if shard < 0 or (shard and world.size % shard):
        raise UsageError(
            f"shard is {shard}, which does not divide the {world.size} processes; give a divisor, or 0 for all of them"
        )


def layers_of(model: OpenVLA) -> list[nn.Module]:
    """The layers that are gathered, recomputed or compiled one by one: blocks of the encoders, then the decoder's."""
    return [block for encoder in model.vision_backbone.children() for block in _list(encoder, "blocks")] + [
        *decoder_layers(model)
    ]


def decoder_layers(model: OpenVLA) -> list[nn.Module]:
    """The layers of the language model."""
    return _list(model.language_model.model, "layers")


def recompute(model: OpenVLA) -> None:
    """Let the decoder's layers keep their input only, and compute the rest again in the backward pass."""
    for layer in decoder_layers(model):
        _replace_forward(layer, _recomputed)


def compile_layers(model: OpenVLA) -> None:
    """Compile every layer on its own: hooks and names stay, and one compilation serves all layers of a kind."""
    for layer in layers_of(model):
        _replace_forward(layer, torch.compile)


def spread(model: OpenVLA, world: World, precision: torch.dtype, shard: int) -> None:
    """Slice `model`, in place, over groups of `shard` processes (0: all), which are copies of each other.

    What is to be float32 becomes so a layer at a time, right before it is sliced: of a model that is stored in bfloat16
    no process ever holds more than that, and one layer in float32.
    """
    if world.size == 1:
        return
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = _mesh(world, shard)
    for part in (*layers_of(model), model):
        widen(part, precision)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "logits_at")


def release(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass left gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()


def average_gradients(parameters: Iterable[Tensor], world: World) -> None:
    """Replace the gradients of tensors that are whole in every process by their mean over the processes."""
    if world.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a slice. Every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all tensors, whole and on the CPU. Every process must ask."""
    return {name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in tensors.items()}


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, forward, use_reentrant=False)


def _mesh(world: World, shard: int) -> DeviceMesh:
    if shard in (0, world.size):
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    shape = (world.size // shard, shard)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def _list(module: nn.Module, name: str) -> list[nn.Module]:
    return list(module.get_submodule(name).children())


def _replace_forward(layer: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """On the instance, below every hook, so that neither the tree of modules nor the names of tensors change."""
    layer.forward = wrap(layer.forward)
