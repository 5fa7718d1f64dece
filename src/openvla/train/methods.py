"""Which weights a run trains: all of them, or low-rank adapters.

Source: Hu et al. 2021 (LoRA); Kim et al. 2024, section 5.3: adapters on every linear layer, the patch embeddings and
the output head included, alpha = min(rank, 16), no dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from openvla.errors import UsageError, require
from openvla.model.prismatic import OpenVLA


def prepare(model: OpenVLA, method: str, rank: int, seed: int) -> nn.Module:
    """Mark what `method` trains and return the module that holds it (for LoRA the peft model around `model`).

    Weights to train become float32, whatever the checkpoint stores. Raises UsageError for a rank below 1.
    """
    if method == "full":
        return model.float().requires_grad_(True)
    if rank < 1:
        raise UsageError(f"the LoRA rank is {rank}; give a whole number from 1, 32 is published")
    peft = require("peft", "train")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=min(rank, 16),
        lora_dropout=0.0,
        init_lora_weights="gaussian",
        target_modules=[name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) numbers of parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)


def merge(module: nn.Module) -> None:
    """Fold adapters, if `module` has any, into the weights they sit beside, and remove them."""
    unload: Any = getattr(module, "merge_and_unload", None)
    if unload is not None:
        unload()
