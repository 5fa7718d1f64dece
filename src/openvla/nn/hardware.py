"""What this machine computes on."""

from __future__ import annotations

import torch

from openvla.errors import UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""The types that weights and products may have, by the names that users give."""


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one. Raises UsageError for one that cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).item()
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the device {name!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'"
        ) from error


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run natively, rather than through float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
