"""Whether a model fits before it is loaded: what its weights will take, and what there is."""

from __future__ import annotations

from pathlib import Path

import torch

from openvla.errors import UsageError
from openvla.model.prismatic import OpenVLA
from openvla.nn.quantized import PRECISIONS, QuantizedLinear

MARGIN = 0.5e9
"""Bytes for activations and the cache of one observation."""


def decoder_weights(model: OpenVLA) -> int:
    """Weights of the decoder's matrices, which are what may be quantised."""
    return sum(weight.numel() for weight in model.language_model.model.layers.parameters() if weight.ndim == 2)


def weight_bytes(model: OpenVLA, dtype: torch.dtype, quantized: type[QuantizedLinear] | None) -> float:
    """Bytes of all weights when packed; `model` may be on the `meta` device."""
    matrices = decoder_weights(model)
    others = sum(weight.numel() for weight in model.parameters()) - matrices
    bits = 8 * dtype.itemsize if quantized is None else quantized.bits
    return others * dtype.itemsize + matrices * bits / 8


def free_bytes(device: torch.device) -> float:
    """Memory that can be taken now; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    report = Path("/proc/meminfo")
    lines = report.read_text().splitlines() if report.is_file() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), float("inf"))


def check_fits(
    model: OpenVLA, device: torch.device, dtype: torch.dtype, quantized: type[QuantizedLinear] | None
) -> None:
    """Raise UsageError, with the numbers, where the packed weights are more than the free memory of `device`."""
    needed, free = weight_bytes(model, dtype, quantized) + MARGIN, free_bytes(device)
    if needed <= free:
        return
    smaller = [
        f"quantize={name!r} ({(weight_bytes(model, dtype, kind) + MARGIN) / 1e9:.1f} GB)"
        for name, kind in PRECISIONS.items()
        if name != "fp8" and weight_bytes(model, dtype, kind) + MARGIN < min(needed, free)
    ]
    way_out = " or ".join(smaller) or "a smaller checkpoint or a machine with more memory"
    raise UsageError(
        f"the model needs {needed / 1e9:.1f} GB on {device.type}, and {free / 1e9:.1f} GB are free; take {way_out}"
    )
