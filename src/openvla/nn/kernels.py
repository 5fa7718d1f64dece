"""Which kernels of ours a tensor's device has."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from openvla.errors import UsageError
from openvla.nn import amx


def fused_kernels(like: Tensor) -> Any | None:
    """The module with `rms_norm`, `layer_norm`, `swiglu` and `rotate` for tensors like this one; None without one.

    Raises UsageError as `gpu_kernels`.
    """
    if like.is_cuda:
        return gpu_kernels()
    return amx if amx.applies(like) else None


def linear(
    x: Float[Tensor, "*B K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None
) -> Float[Tensor, "*B N"]:
    """The product x W^T + b, by our kernels where they apply."""
    return amx.plain(x, weight, bias) if amx.applies(x, weight, bias) else F.linear(x, weight, bias)


def gpu_kernels() -> Any:
    """The kernels for NVIDIA GPUs. Raises UsageError without Triton, which comes with torch for CUDA alone."""
    try:
        from openvla.nn import gpu_kernels
    except ImportError as error:
        raise UsageError(
            f"a policy on a GPU needs Triton ({error}); install the build of torch for CUDA, or choose device='cpu'"
        ) from error
    return gpu_kernels
