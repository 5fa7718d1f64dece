"""AdamW and its learning rate.

Source: Loshchilov and Hutter 2019 (AdamW, algorithm 2); Kim et al. 2024, section 3.2 (constant rate, no decay).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from openvla.train.config import TrainConfig


def make_optimizer(trainable: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over `trainable`; only matrices decay."""
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (0-based): a linear rise over the warm-up, then constant or a half cosine to zero."""
    warmup = int(config.warmup_ratio * config.steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
