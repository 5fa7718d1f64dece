"""Which weights a run trains: all, some of the parts, or low-rank adapters.

Source: Kim et al. 2024, section 5.3, for the parts and for LoRA (Hu et al. 2021): adapters on every linear layer, the
patch embeddings and the output head included, alpha = min(rank, 16), no dropout. Karamcheti et al. 2024, section 2, for
the projector alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from openvla.errors import UsageError, lookup, require
from openvla.model.prismatic import OpenVLA
from openvla.train.quantize import parameter_size, quantize_decoder


def _ends(model: OpenVLA) -> list[nn.Module]:
    """The two vocabulary matrices and the last decoder layer; the norm behind it stays as it is."""
    language = model.language_model
    return [language.model.embed_tokens, language.model.layers[-1], language.lm_head]


def _nothing(model: OpenVLA) -> list[nn.Module]:
    del model
    return []


PARTS: dict[str, Callable[[OpenVLA], list[nn.Module]]] = {
    "full": lambda model: [model],
    "frozen-vision": lambda model: [model.projector, model.language_model],
    "last-layer": _ends,
    "sandwich": lambda model: [model.vision_backbone, model.projector, *_ends(model)],
    "align": lambda model: [model.projector],
}
"""The parts of the model that a method trains whole."""

ADAPTERS = ("lora", "qlora")
"""The methods that train low-rank adapters beside a model that stays as it is."""


def prepare(
    model: OpenVLA,
    method: str,
    rank: int,
    seed: int,
    precision: torch.dtype | None = None,
    double_quantization: bool = False,
    widened: bool = True,
) -> nn.Module:
    """Mark what `method` trains and return the module that holds it (with adapters the peft model around `model`).

    Weights to train become float32, whatever the checkpoint stores. With `precision`, of the forward pass, float32 all
    do; with bfloat16 the other matrices become what every use would cast them to. widened: make float32 what is to be;
    else it is left to who calls `widen`.
    Raises UsageError for an unknown method and a rank below 1.
    """
    if widened and precision == torch.float32:
        widen(model, precision)
    mark(model, method)
    narrow(model, precision)
    if method in ADAPTERS:
        check_rank(rank)
        if method == "qlora":
            quantize_decoder(model, double_quantization, precision or torch.bfloat16)
        return _with_adapters(model, rank, seed)
    if widened:
        widen(model, precision)
    return model


def widen(module: nn.Module, precision: torch.dtype | None) -> None:
    """Make what is trained float32, in place, and everything where `precision` is that."""
    for parameter in module.parameters():
        if parameter.requires_grad or precision == torch.float32:
            parameter.data = parameter.data.float()


def narrow(model: nn.Module, precision: torch.dtype | None) -> None:
    """Store the matrices that are not trained, and the embedding, in bfloat16 where `precision` is that.

    Autocast casts them at every use, so the outputs are the same bits in half of the memory.
    """
    if precision != torch.bfloat16:
        return
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(precision)


def mark(model: OpenVLA, method: str) -> list[nn.Module]:
    """Let gradients flow into the parts that `method` trains whole, and into nothing else; return these parts."""
    parts = lookup(method, PARTS | dict.fromkeys(ADAPTERS, _nothing), "method")(model)
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    return parts


def adapted_layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that get adapters, by name. A head tied to the embedding is none of them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}


def adapter_size(layer: nn.Linear | nn.Conv2d, rank: int) -> int:
    """Parameters of one adapter: from the layer's inputs to `rank` numbers, and from there to its outputs."""
    outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
    return rank * (inputs + outputs)


def check_rank(rank: int) -> None:
    """Raise UsageError for a rank below 1."""
    if rank < 1:
        raise UsageError(f"the LoRA rank is {rank}; give a whole number from 1, 32 is published")


def _with_adapters(model: OpenVLA, rank: int, seed: int) -> nn.Module:
    peft = require("peft", "train")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=min(rank, 16),
        lora_dropout=0.0,
        init_lora_weights="gaussian",
        target_modules=list(adapted_layers(model)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) numbers of parameters."""
    sizes = [(parameter_size(parameter), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)
