from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from openvla.train.config import TrainConfig
from openvla.train.optim import learning_rate, make_optimizer

Make = Callable[..., TrainConfig]


def test_the_published_rate_is_constant(config: Make) -> None:
    run = config(learning_rate=2e-5, steps=100)
    assert {learning_rate(step, run) for step in range(100)} == {2e-5}


def test_the_warm_up_is_linear_and_the_cosine_ends_near_zero(config: Make) -> None:
    run = config(learning_rate=1.0, steps=100, warmup_ratio=0.1, schedule="cosine")
    rates = [learning_rate(step, run) for step in range(100)]
    assert rates[:11] == pytest.approx([step / 10 for step in range(11)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001


def test_only_matrices_decay(config: Make) -> None:
    optimizer = make_optimizer(nn.Linear(3, 2), config(weight_decay=0.1))
    assert [(group["weight_decay"], group["params"][0].ndim) for group in optimizer.param_groups] == [
        (0.1, 2),
        (0.0, 1),
    ]
