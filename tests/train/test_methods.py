from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from openvla.errors import UsageError
from openvla.model.checkpoint import load_checkpoint
from openvla.model.presets import PRESETS
from openvla.train.census import census
from openvla.train.config import TrainConfig
from openvla.train.fresh import fresh_checkpoint
from openvla.train.loop import train
from openvla.train.methods import adapted_layers, count_parameters, prepare
from openvla.train.plan import parameters

Make = Callable[..., TrainConfig]


def test_full_trains_every_weight() -> None:
    module = prepare(fresh_checkpoint("micro", "metaworld", 0).model, "full", rank=0, seed=0)
    total, trainable = count_parameters(module)
    assert total == trainable


MOVED = {
    "full": {"vision_backbone", "projector", "language_model"},
    "frozen-vision": {"projector", "language_model"},
    "last-layer": {"language_model"},
    "sandwich": {"vision_backbone", "projector", "language_model"},
}


@pytest.mark.parametrize("method", MOVED)
def test_a_method_trains_its_parts_and_no_others(method: str) -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model
    prepare(model, method, rank=0, seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == MOVED[method]
    language = {name for name in trained if name.startswith("language_model")}
    if method in ("last-layer", "sandwich"):
        assert "language_model.model.norm.weight" not in language
        assert {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"} < language
        assert {name.split(".")[3] for name in language if ".layers." in name} == {"1"}


@pytest.mark.parametrize("method", MOVED)
def test_what_is_trained_is_float32_and_the_rest_as_stored_unless_the_pass_is_float32(method: str) -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model.bfloat16()
    prepare(model, method, rank=0, seed=0, precision=torch.bfloat16)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    prepare(model, method, rank=0, seed=0, precision=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", [*MOVED, "lora"])
def test_matrices_that_stay_take_two_bytes_in_bf16_and_give_the_same_bits(method: str) -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model
    ids, pixels = torch.tensor([[1, 300, 301, 302]]), torch.rand(1, 6, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(ids, pixels).logits
        prepare(model, method, rank=4, seed=0, precision=torch.bfloat16)
        assert torch.equal(model(ids, pixels).logits, before)
    frozen = [p for p in model.parameters() if p.ndim in (2, 4) and not p.requires_grad]
    assert {parameter.dtype for parameter in frozen} <= {torch.bfloat16}


@pytest.mark.parametrize("method", ["frozen-vision", "last-layer", "sandwich"])
def test_a_run_moves_only_what_its_method_trains(config: Make, method: str) -> None:
    start = fresh_checkpoint("micro", "metaworld", config().seed).model
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    prepare(start, method, rank=0, seed=0)
    trained = {name for name, parameter in start.named_parameters() if parameter.requires_grad}
    final = load_checkpoint(train(config(method=method, steps=3)).final).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], final[name])}
    assert moved
    assert moved <= trained


def test_an_unknown_method_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown method 'last-layers'; did you mean 'last-layer'"):
        prepare(fresh_checkpoint("micro", "metaworld", 0).model, "last-layers", rank=0, seed=0)


def test_lora_starts_as_the_model_it_adapts_and_merging_changes_nothing_but_names() -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model
    ids, pixels = torch.tensor([[1, 300, 301, 302]]), torch.rand(1, 6, 28, 28)
    before, names = model(ids, pixels).logits, list(model.state_dict())
    adapted = prepare(model, "lora", rank=4, seed=0)
    assert torch.equal(model(ids, pixels).logits, before)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    changed = model(ids, pixels).logits
    assert not torch.allclose(changed, before, atol=1e-3)
    adapted.merge_and_unload()
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(ids, pixels).logits, changed, rtol=1e-4, atol=1e-5)


def test_lora_trains_adapters_only_and_saves_them_in_pefts_format(config: Make) -> None:
    run = config(method="lora", rank=4, steps=2)
    result = train(run)
    adapter = run.output / "checkpoints" / "step-000002" / "adapter"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in adapter.iterdir()}
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == result.metrics["parameters/trainable"]
    assert any("lm_head" in name for name in weights)
    assert any("patch_embed" in name for name in weights)


def test_the_merged_checkpoint_is_an_ordinary_one_and_only_linear_weights_moved(config: Make) -> None:
    start = fresh_checkpoint("micro", "metaworld", config().seed).model.state_dict()
    final = load_checkpoint(train(config(method="lora", rank=4, steps=3)).final).model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], final[name])}
    assert "language_model.lm_head.weight" in moved
    assert not any("norm" in name or "embed_tokens" in name or "pos_embed" in name for name in moved)


def test_an_adapter_directory_says_its_rank(config: Make) -> None:
    run = config(method="lora", rank=32, steps=2)
    train(run)
    path: Path = run.output / "checkpoints" / "step-000002" / "adapter" / "adapter_config.json"
    assert '"r": 32' in path.read_text()
    assert '"lora_alpha": 16' in path.read_text()


def test_qlora_packs_the_decoders_linear_layers_and_no_others() -> None:
    model = fresh_checkpoint("micro", "metaworld", 0).model
    before = count_parameters(prepare(fresh_checkpoint("micro", "metaworld", 0).model, "lora", rank=4, seed=0))
    adapted = prepare(model, "qlora", rank=4, seed=0, precision=torch.bfloat16, double_quantization=True).to("cpu")
    packed = {name for name, parameter in adapted.named_parameters() if parameter.dtype == torch.uint8}
    assert len(packed) == 7 * len(model.language_model.model.layers)
    assert all(".layers." in name for name in packed)
    assert count_parameters(adapted) == before


def test_qlora_learns_and_its_final_checkpoint_has_the_base_and_the_adapter(config: Make) -> None:
    start = fresh_checkpoint("micro", "metaworld", config().seed).model.state_dict()
    run = config(method="qlora", rank=4, steps=4)
    result = train(run)
    place = run.output / "checkpoints" / "step-000004" / "adapter"
    assert (place / "base_weights.json").is_file()
    weights = load_file(place / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == result.metrics["parameters/trainable"]
    final = load_checkpoint(result.final).model.state_dict()
    name = "language_model.model.layers.0.mlp.up_proj"
    a, b = (weights[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    torch.testing.assert_close(final[f"{name}.weight"], start[f"{name}.weight"] + b @ a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "frozen-vision", "last-layer", "sandwich", "lora", "qlora"])
def test_a_run_prints_the_counts_of_the_plan(config: Make, method: str) -> None:
    run = config(method=method, rank=4, steps=1)
    metrics = train(run).metrics
    planned = parameters(census(PRESETS["micro"].model, method, 4))
    assert (metrics["parameters/total"], metrics["parameters/trainable"]) == (planned["total"], planned["trainable"])


class PlainLora(nn.Module):
    """W x + b + scale B A x, as the paper writes it."""

    def __init__(self, layer: nn.Module, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.a, self.b, self.scale = layer, nn.Parameter(a.clone()), nn.Parameter(b.clone()), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.layer, nn.Conv2d):
            branch = F.conv2d(F.conv2d(x, self.a, stride=self.layer.stride), self.b)
        else:
            branch = x @ self.a.T @ self.b.T
        return self.layer(x) + self.scale * branch


def test_the_gradients_of_lora_of_rank_32_are_those_of_a_plain_implementation() -> None:
    adapted = prepare(fresh_checkpoint("micro", "metaworld", 0).model, "lora", rank=32, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    adapters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    plain = fresh_checkpoint("micro", "metaworld", 0).model.requires_grad_(False)
    beside: dict[str, PlainLora] = {}
    for name, layer in adapted_layers(plain).items():
        a, b = (adapters[f"base_model.model.{name}.lora_{letter}.default.weight"].detach() for letter in "AB")
        beside[name] = PlainLora(layer, a, b, 16 / 32)
        parent, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(parent), leaf, beside[name])
    ids, pixels = torch.randint(3, 200, (3, 7), generator=generator), torch.randn(3, 6, 28, 28, generator=generator)
    for model in (adapted.base_model.model, plain):
        logits, targets = model.supervised_logits(ids, pixels, ids)
        F.cross_entropy(logits, targets).backward()
    for name, layer in beside.items():
        for letter, parameter in (("A", layer.a), ("B", layer.b)):
            ours = adapters[f"base_model.model.{name}.lora_{letter}.default.weight"].grad
            if parameter.grad is None:
                assert ours is None
            else:
                torch.testing.assert_close(
                    ours, parameter.grad, rtol=1e-5, atol=1e-5 * float(parameter.grad.abs().max())
                )


def test_a_scale_of_scales_without_four_bits_is_refused(config: Make) -> None:
    with pytest.raises(UsageError, match="double_quantization is set and the method is 'lora'"):
        train(config(method="lora", double_quantization=True))


def test_adapters_on_a_cpu_do_not_advertise_a_package() -> None:
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
