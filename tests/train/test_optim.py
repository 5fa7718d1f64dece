from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
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
    optimizer = make_optimizer(list(nn.Linear(3, 2).parameters()), config(weight_decay=0.1))
    assert [(group["weight_decay"], group["params"][0].ndim) for group in optimizer.param_groups] == [
        (0.1, 2),
        (0.0, 1),
    ]


def test_twenty_steps_are_those_of_the_textbook(config: Make) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64."""
    run = config(learning_rate=1e-2, weight_decay=0.1, steps=20, warmup_ratio=0.2, schedule="cosine")
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(5, 3))
    optimizer = make_optimizer([parameter], run)
    value, m, v = parameter.detach().double().clone(), torch.zeros(5, 3).double(), torch.zeros(5, 3).double()
    for step in range(20):
        gradient, rate = torch.randn(5, 3), learning_rate(step, run)
        for group in optimizer.param_groups:
            group["lr"] = rate
        parameter.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        value -= rate * 0.1 * value
        value -= rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-6)
