from __future__ import annotations

import dataclasses

import pytest
import torch

from openvla.errors import UsageError
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.train.census import census
from openvla.train.methods import ADAPTERS, PARTS, count_parameters, prepare

PUBLISHED = {
    "openvla-v01-7b": {
        ("full", 0): 7_188_124_608,
        ("frozen-vision", 0): 6_760_443_904,
        ("sandwich", 0): 914_236_352,
        ("last-layer", 0): 465_051_648,
        ("lora", 32): 97_603_968,
        ("lora", 64): 195_207_936,
        ("qlora", 32): 97_603_968,
    },
    "openvla-7b": {
        ("full", 0): 7_541_237_184,
        ("frozen-vision", 0): 6_810_325_504,
        ("sandwich", 0): 1_267_348_928,
        ("last-layer", 0): 465_051_648,
        ("lora", 32): 110_828_288,
        ("lora", 64): 221_656_576,
    },
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_published_table(preset: str) -> None:
    model = PRESETS[preset].model
    found = {(method, rank): census(model, method, rank).count(trained=True) for method, rank in PUBLISHED[preset]}
    assert found == PUBLISHED[preset]


@pytest.mark.parametrize("preset", ["micro", "nano", "phi", "tied", "one-layer"])
@pytest.mark.parametrize("method", [*PARTS, "lora"])
def test_counts_are_those_of_the_whole_model_prepared_for_the_run(preset: str, method: str) -> None:
    model = PRESETS["nano" if preset == "nano" else "micro"].model
    changes = {
        "phi": {"family": "phi", "num_hidden_layers": 5, "num_key_value_heads": 4},
        "tied": {"family": "qwen2", "tie_word_embeddings": True},
        "one-layer": {"num_hidden_layers": 1},
    }
    model = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, **changes.get(preset, {})))
    counted = census(model, method, 4)
    with torch.device("meta"):
        whole = prepare(OpenVLA(model), method, rank=4, seed=0)
    assert (counted.count(), counted.count(trained=True)) == count_parameters(whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*PARTS, "lora"])
def test_counts_of_7b_are_those_of_the_whole_model(method: str) -> None:
    model = PRESETS["openvla-7b"].model
    counted = census(model, method, 32)
    with torch.device("meta"):
        whole = prepare(OpenVLA(model), method, rank=32, seed=0)
    assert (counted.count(), counted.count(trained=True)) == count_parameters(whole)


def test_an_unknown_method_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'sandwhich'; did you mean 'sandwich'"):
        census(PRESETS["micro"].model, "sandwhich", 0)


@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_need_a_rank(method: str) -> None:
    with pytest.raises(UsageError, match="the LoRA rank is 0; give a whole number from 1"):
        census(PRESETS["micro"].model, method, 0)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_never_runs_is_what_has_no_gradient(method: str) -> None:
    config = PRESETS["micro"].model
    config = dataclasses.replace(
        config,
        encoders=tuple(dataclasses.replace(encoder, depth=3, attention_pool=True) for encoder in config.encoders),
    )
    module = prepare(OpenVLA(config), method, rank=4, seed=0)
    model = module.base_model.model if method == "lora" else module
    ids = torch.randint(3, 200, (2, 12))
    model(ids, torch.zeros(2, 6, 28, 28), labels=ids).loss.backward()
    with_gradient = sum(p.numel() for p in module.parameters() if p.grad is not None)
    assert census(config, method, 4).count(trained=True, runs=True) == with_gradient
