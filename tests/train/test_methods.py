from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from openvla.model.checkpoint import load_checkpoint
from openvla.train.config import TrainConfig
from openvla.train.fresh import fresh_checkpoint
from openvla.train.loop import train
from openvla.train.methods import count_parameters, merge, prepare

Make = Callable[..., TrainConfig]


def test_full_trains_every_weight() -> None:
    module = prepare(fresh_checkpoint("micro", "metaworld", 0).model, "full", rank=0, seed=0)
    total, trainable = count_parameters(module)
    assert total == trainable


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
    merge(adapted)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(ids, pixels).logits, changed, rtol=1e-4, atol=1e-5)


def test_lora_trains_adapters_only_and_saves_them_in_pefts_format(config: Make) -> None:
    run = config(method="lora", rank=4, steps=2)
    result = train(run)
    adapter = run.output / "checkpoints" / "step-000002" / "adapter"
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
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
