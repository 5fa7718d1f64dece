from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import pytest

from openvla.errors import UsageError
from openvla.model.presets import PRESETS, Preset
from openvla.train.bench import Measured, bench_training
from openvla.train.census import census
from openvla.train.config import TrainConfig
from openvla.train.memory import Load, step_memory
from openvla.train.methods import ADAPTERS, PARTS


def middling() -> Preset:
    """A model of 55 million parameters, 8 decoder layers and one encoder."""
    nano = PRESETS["nano"]
    encoder = dataclasses.replace(nano.model.encoders[0], patch_size=14, dim=384, mlp_dim=1536, attention_pool=True)
    sizes = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 8}
    decoder = dataclasses.replace(nano.model.decoder, num_attention_heads=10, num_key_value_heads=10, **sizes)
    return dataclasses.replace(nano, model=dataclasses.replace(nano.model, encoders=(encoder,), decoder=decoder))


def measured(preset: Preset, method: Any, precision: Literal["bf16", "fp32"], **changes: Any) -> tuple[Measured, int]:
    """The step, and the plan's peak."""
    load = Load(precision=precision, **{"batch": 4, **changes})
    config = TrainConfig(
        data=Path("nowhere"),
        output=Path("nowhere"),
        checkpoint="random",
        method=method,
        precision=precision,
        batch_size=load.batch,
        accumulate=load.accumulate,
        checkpoint_activations=load.checkpointing,
        device="cpu",
    )
    found = bench_training(preset, config, load, steps=1, warmup=1)
    planned = step_memory(preset.model, census(preset.model, method, 32), method, 32, load).components(load.batch)
    assert planned["weights"] + planned["optimizer"] == pytest.approx(found.held_bytes, rel=0.005)
    return found, planned["peak"]


@pytest.mark.parametrize(("method", "precision"), [("full", "fp32"), ("lora", "bf16")])
def test_the_planned_peak_is_the_measured_one(method: str, precision: Literal["bf16", "fp32"]) -> None:
    found, planned = measured(PRESETS["nano"], method, precision)
    assert planned == pytest.approx(found.peak_bytes, rel=0.1)
    assert found.step_s > 0
    assert found.flops_per_s > 0


def test_micro_batches_and_recomputation_are_planned_too() -> None:
    for changes in ({"accumulate": 2}, {"checkpointing": True}):
        found, planned = measured(PRESETS["nano"], "full", "fp32", **changes)
        assert planned == pytest.approx(found.peak_bytes, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "precision"), list(itertools.product([*PARTS, *ADAPTERS], ["bf16", "fp32"])))
def test_the_planned_peak_of_a_larger_model_is_the_measured_one(
    method: str, precision: Literal["bf16", "fp32"]
) -> None:
    for changes in ({"batch": 1}, {"batch": 4}, {"batch": 4, "checkpointing": True}, {"batch": 8, "accumulate": 2}):
        found, planned = measured(middling(), method, precision, **changes)
        assert planned == pytest.approx(found.peak_bytes, rel=0.1), changes


def test_the_first_step_is_not_measured() -> None:
    config = TrainConfig(data=Path("nowhere"), output=Path("nowhere"), checkpoint="random", device="cpu")
    with pytest.raises(UsageError, match="steps is 1 and warmup 0; give whole numbers from 1"):
        bench_training(PRESETS["nano"], config, Load(), steps=1, warmup=0)
