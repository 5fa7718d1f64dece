"""A model rearranged for acting: projections that read the same input become one, in the wanted precision.

Of each decoder layer, queries, keys and values are one matrix, and so are gate and up; every matrix of the decoder may
be quantised. Layers keep their own `forward`: only what they call is replaced, so all families of decoders are packed
by the same code. Encoders, projector, embedding and head stay in the plain precision (they are 10 % of the weights, and
read once per action); what is never run is dropped.

Packing reads every weight once and lets go of it at once: a memory-mapped checkpoint never lies in memory as a whole.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from openvla.model.prismatic import OpenVLA
from openvla.nn import amx
from openvla.nn.attention import KVCache, attention, rotate
from openvla.nn.decoder_layers import MixedHeads, RMSNorm, Rotary, SwiGLU
from openvla.nn.kernels import fused_kernels
from openvla.nn.quantized import QuantizedLinear, random_bytes

Maker = Callable[[Tensor, Tensor | None], nn.Module]
"""Weight (N, K) and bias to a layer."""

_PAGE_OUT = 21
"""MADV_PAGEOUT of Linux: drop pages that a file can give back; harmless to all others."""


class FusedAttention(nn.Module):
    """`MixedHeads` and its output projection, with one projection for queries, keys and values."""

    def __init__(self, plain: MixedHeads, make: Maker) -> None:
        super().__init__()
        self.layer, self.head_dim, self.rotate = plain.layer, plain.head_dim, plain.rotate
        parts = (plain.q_proj, plain.k_proj, plain.v_proj)
        self.heads = [part.out_features // plain.head_dim for part in parts]
        self.qkv = fuse(parts, make)
        (out,) = (child for child in plain.children() if child not in parts)
        self.out = fuse((out,), make)

    def forward(
        self, x: Float[Tensor, "B T C"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache
    ) -> Float[Tensor, "B T C"]:
        return self.out(self.mix(self.qkv(x), rotary, mask, cache))

    def mix(
        self, fused: Float[Tensor, "B T H"], rotary: Rotary, mask: Bool[Tensor, "B 1 T S"] | None, cache: KVCache
    ) -> Float[Tensor, "B T C"]:
        """Values mixed by attention, heads side by side, of queries, keys and values side by side."""
        turning = sum(self.heads[:2])
        heads = fused.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if self.rotate is rotate and (kernels := fused_kernels(fused)):
            turned = kernels.rotate(fused, *rotary, turning)
        else:
            turned = self.rotate(heads[:, :turning], *rotary)
        query, key = turned.split(self.heads[:2], dim=1)
        value = heads[:, turning:]
        key, value = cache.append(self.layer, key, value)
        return attention(query, key, value, mask, causal=mask is None)


class FusedSwiGLU(nn.Module):
    """`SwiGLU` with one projection for gate and up."""

    def __init__(self, plain: SwiGLU, make: Maker) -> None:
        super().__init__()
        self.gate_up = fuse((plain.gate_proj, plain.up_proj), make)
        self.down = fuse((plain.down_proj,), make)

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        both = self.gate_up(x)
        if kernels := fused_kernels(both):
            return self.down(kernels.swiglu(both))
        gate, up = both.chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class FusedNorm(RMSNorm):
    """`RMSNorm`, one kernel where it takes several."""

    def __init__(self, plain: RMSNorm) -> None:
        nn.Module.__init__(self)
        self.eps, self.weight = plain.eps, plain.weight

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        kernels = fused_kernels(x)
        return kernels.rms_norm(x, self.weight, self.eps)[1] if kernels else super().forward(x)


@torch.no_grad()
def pack(
    model: OpenVLA,
    device: torch.device,
    dtype: torch.dtype,
    quantized: type[QuantizedLinear] | None = None,
    *,
    consume: bool = False,
) -> OpenVLA:
    """A packed copy of `model` that shares the tensors it need not change.

    dtype: of all that is not quantised. quantized: the class of the decoder's matrices; None keeps them plain.
    consume: rearrange `model` itself, so that each weight is freed as soon as it is packed.
    Weights on the `meta` device become random numbers, made directly in the wanted precision.
    """

    def make(weight: Tensor, bias: Tensor | None) -> nn.Module:
        bias = None if bias is None else placed(bias, device, dtype)
        if quantized is not None:
            with device:  # where random numbers are made
                return quantized.of(weight if weight.is_meta else weight.to(device), bias)
        return _linear(placed(weight, device, dtype), bias)

    packed = rearrange(model if consume else _shared_copy(model), make)
    for module, name, parameter in plain_parameters(packed):
        found = placed(parameter, device, dtype)
        setattr(module, name, nn.Parameter(settled(found) if consume else found, requires_grad=False))
    amx.with_amx(packed)
    return packed


def rearrange(model: OpenVLA, make: Maker) -> OpenVLA:
    """Put fused layers, made by `make`, where `model` has its own, and drop what is never run."""
    model.eval().requires_grad_(False)
    _drop_unused(model)
    for layer in model.language_model.model.layers:
        for name, child in list(layer.named_children()):
            layer.register_module(name, _packed(child, make))
    return model


def plain_parameters(model: OpenVLA) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """What is not quantised: the module, the name there, the tensor."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            yield module, name, parameter


def fuse(parts: tuple[nn.Module, ...], make: Maker) -> nn.Module:
    """One layer that computes what `parts`, linear layers of one input, compute side by side; `parts` lose theirs."""
    linears: list[Any] = list(parts)
    weight = torch.cat([each.weight for each in linears]) if len(linears) > 1 else linears[0].weight
    bias = None if linears[0].bias is None else torch.cat([each.bias for each in linears])
    fused = make(weight.detach(), bias)
    for each in linears:
        release(each.weight)
        each.weight = each.bias = None
    return fused


def release(tensor: Tensor) -> None:
    """Tell the system that the pages of a mapped tensor will not be read again; nothing happens to other tensors."""
    if tensor.device.type == "cpu" and (advise := getattr(ctypes.CDLL(None), "madvise", None)):
        first = tensor.data_ptr() // 4096 * 4096
        advise(ctypes.c_void_p(first), ctypes.c_size_t(tensor.data_ptr() + tensor.nbytes - first), _PAGE_OUT)


def _packed(child: nn.Module, make: Maker) -> nn.Module:
    """One part of a decoder layer, packed; LayerNorms stay as they are."""
    if isinstance(child, MixedHeads):
        return FusedAttention(child, make)
    if isinstance(child, SwiGLU):
        return FusedSwiGLU(child, make)
    if isinstance(child, RMSNorm):
        return FusedNorm(child)
    for name, inner in list(child.named_children()):
        if isinstance(inner, nn.Linear):
            child.register_module(name, fuse((inner,), make))
    return child


def _shared_copy(model: OpenVLA) -> OpenVLA:
    """New modules around the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _drop_unused(model: OpenVLA) -> None:
    """Remove what only a checkpoint needs: each encoder's last block, its final norm and its pooling head."""
    for encoder in model.vision_backbone.children():
        blocks = encoder.get_submodule("blocks")
        assert isinstance(blocks, nn.ModuleList)
        blocks[-1] = nn.Identity()
        for name in ("norm", "attn_pool"):
            if name in dict(encoder.named_children()):
                setattr(encoder, name, nn.Identity())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values where and how they are wanted; a `meta` tensor becomes random numbers of deviation 0.02."""
    if not tensor.is_meta:
        return tensor.detach().to(device=device, dtype=dtype)
    with device:
        return random_bytes(tensor.shape).to(dtype).sub_(127.5).mul_(0.02 / 74)


def settled(tensor: Tensor) -> Tensor:
    """The values in memory of their own, laid out for our kernels where these apply; a mapped tensor is let go of."""
    if not amx.applies(tensor):
        return tensor
    own = amx.on_large_pages(tensor)
    release(tensor)
    return own
