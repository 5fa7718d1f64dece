from __future__ import annotations

from typing import Any

import pytest

from openvla.errors import UsageError
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.train.memory import Load
from openvla.train.plan import Hardware, plan


def planned(preset: str = "openvla-7b", method: str = "full", **changes: Any) -> dict[str, Any]:
    return plan(PRESETS[preset].model, method, 32, Load(), Hardware(**changes))


def test_the_parts_add_up_to_the_total() -> None:
    found = planned(method="lora")["parameters"]
    assert found == {
        "total": 7_652_065_472,
        "trainable": 110_828_288,
        "vision_backbone": 730_911_680,
        "projector": 71_385_600,
        "language_model": 6_738_939_904,
        "adapters": 110_828_288,
    }


@pytest.mark.parametrize("preset", ["micro", "nano"])
def test_full_training_does_three_times_the_work_of_a_forward_pass(preset: str) -> None:
    model = PRESETS[preset].model
    expected = 3 * OpenVLA(model).forward_flops(Load().text_tokens)
    assert planned(preset)["flops_per_example"] == pytest.approx(expected, rel=1e-3)


def test_what_stays_as_it_is_costs_less() -> None:
    work = {
        method: planned(method=method)["flops_per_example"] for method in ("full", "lora", "last-layer", "sandwich")
    }
    assert work["full"] / work["lora"] == pytest.approx(1.5)
    assert work["last-layer"] < work["sandwich"] < work["full"]


def test_hours_and_dollars_follow_from_the_work() -> None:
    hardware = Hardware(mfu=0.5, card_tflops=100.0, dollars_per_hour=3.0)
    found = plan(PRESETS["openvla-7b"].model, "full", 0, Load(world_size=4), hardware, 1000)
    assert found["hours"] == pytest.approx(found["flops_per_example"] * 1000 / (0.5 * 100e12 * 4) / 3600)
    assert found["dollars"] == pytest.approx(found["hours"] * 4 * 3)
    assert "hours" not in planned()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"card_gb": 0.0}, "card_gb is 0.0"),
        ({"mfu": 1.5}, "mfu 1.5; the first two must be above 0, the last in 0..1"),
        ({"card_tflops": -1.0}, "card_tflops -1.0"),
    ],
)
def test_a_card_that_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Hardware(**changes)


def test_settings_without_a_meaning_are_refused() -> None:
    model = PRESETS["micro"].model
    with pytest.raises(UsageError, match="unknown precision 'bf61'; did you mean 'bf16'"):
        plan(model, "full", 0, Load(precision="bf61"), Hardware())
    with pytest.raises(UsageError, match="examples is 0; give a whole number from 1"):
        plan(model, "full", 0, Load(), Hardware(), 0)
