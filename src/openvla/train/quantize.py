"""The linear layers of the language model in four bits, for QLoRA: 16 levels of a normal distribution (NF4).

Each block of 64 weights is scaled by its largest; with double quantisation these scales are stored in eight bits. The
output head and what is not the language model keep their type. Weights are packed when the model moves to its device.
Source: Dettmers et al. 2023 (QLoRA), section 3.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import nn

from openvla.errors import require
from openvla.model.prismatic import OpenVLA

# peft imports bitsandbytes for LoRA as well, which on some CPUs then asks for a package to make four bits faster
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quantize_decoder(model: OpenVLA, double: bool, compute: torch.dtype) -> None:
    """Replace the decoder's linear layers by NF4 ones that compute in `compute`.

    Raises MissingDependencyError without bitsandbytes.
    """
    bitsandbytes: Any = require("bitsandbytes", "qlora")
    layers = model.language_model.model.layers
    found = [(name, module) for name, module in layers.named_modules() if type(module) is nn.Linear]
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        setattr(layers.get_submodule(parent), leaf, _packed(bitsandbytes, linear, double, compute))
    cast("Any", model).is_loaded_in_4bit = True  # peft asks the model for this


def parameter_size(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for, of which two share a byte where they are packed."""
    packed: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()


def _packed(bitsandbytes: Any, linear: nn.Linear, double: bool, compute: torch.dtype) -> nn.Module:
    bias: nn.Parameter | None = getattr(linear, "bias", None)
    layer = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=bias is not None,
        compute_dtype=compute,
        compress_statistics=double,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = bitsandbytes.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, compress_statistics=double, quant_type="nf4"
    )
    layer.bias = bias
    return layer
