from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openvla.errors import CheckpointError
from openvla.model import convert as room
from openvla.model.adapters import BASE_WEIGHTS, read_adapter
from openvla.model.checkpoint import load_checkpoint
from openvla.model.convert import convert
from openvla.model.fingerprint import sample_hash
from openvla.model.merge_check import check_merge, fixed_input


@pytest.fixture
def adapter(golden: Path, tmp_path: Path) -> Path:
    """A trained adapter of every linear layer and patch embedding, saved by peft, its base named in it."""
    model = load_checkpoint(golden / "micro").model
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=names, init_lora_weights="gaussian")
    wrapped = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids, pixels = fixed_input(load_checkpoint(golden / "micro").model.config, torch.float32)
    with torch.inference_mode():
        torch.save(wrapped(input_ids=ids, pixel_values=pixels).logits, tmp_path / "logits.pt")
    change(tmp_path / "adapter", base_model_name_or_path=str(golden / "micro"))
    return tmp_path / "adapter"


def change(adapter: Path, **fields: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(adapter: Path, edit: Any) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def test_a_merged_checkpoint_computes_what_peft_computes(adapter: Path, golden: Path, tmp_path: Path) -> None:
    done = convert(golden / "micro", tmp_path / "merged", "hf", adapter=adapter)
    assert any("merged and unmerged logits agree" in note for note in done.notes)
    model = load_checkpoint(tmp_path / "merged").model
    with torch.inference_mode():
        logits = model(*fixed_input(model.config, torch.float32)).logits
    torch.testing.assert_close(logits, torch.load(tmp_path / "logits.pt"), rtol=1e-4, atol=1e-4)
    merged = peft.PeftModel.from_pretrained(load_checkpoint(golden / "micro").model, adapter).merge_and_unload()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_an_adapter_directory_loads_as_its_merged_base(adapter: Path, golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "merged", "hf", adapter=adapter)
    ours = load_checkpoint(adapter).model.state_dict()
    wanted = load_checkpoint(tmp_path / "merged").model.state_dict()
    assert all(torch.equal(wanted[name], ours[name]) for name in wanted)
    change(adapter, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match=r"names no base_model_name_or_path; merge it: `openvla convert BASE DST"):
        load_checkpoint(adapter)


def test_the_sum_is_rounded_once(adapter: Path, golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "half", "hf", dtype="bf16")
    convert(tmp_path / "half", tmp_path / "merged", "hf", adapter=adapter)
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    first, second, scale = read_adapter(adapter).updates[name]
    base = load_file(tmp_path / "half" / "model.safetensors")[name]
    wanted = (base.float() + scale * second.float() @ first.float()).bfloat16()
    torch.testing.assert_close(load_file(tmp_path / "merged" / "model.safetensors")[name], wanted, rtol=0.008, atol=0)


def test_an_adapter_is_not_merged_twice(adapter: Path, golden: Path, tmp_path: Path) -> None:
    convert(golden / "micro", tmp_path / "once", "hf", adapter=adapter)
    convert(tmp_path / "once", tmp_path / "native", "prismatic")
    for place in ("once", "native"):
        with pytest.raises(CheckpointError, match=r"is merged into .* already; merging it again would apply it twice"):
            convert(tmp_path / place, tmp_path / "twice", "hf", adapter=adapter)
    assert not (tmp_path / "twice").exists()
    convert(tmp_path / "once", tmp_path / "twice", "hf", adapter=adapter, force=True)


def test_an_adapter_that_recorded_its_base_is_merged_into_no_other(adapter: Path, golden: Path, tmp_path: Path) -> None:
    base = sample_hash(load_checkpoint(golden / "micro").model.state_dict())
    (adapter / BASE_WEIGHTS).write_text(json.dumps({"sample": base}))
    convert(golden / "micro", tmp_path / "merged", "hf", adapter=adapter)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    del config["merged_adapters"]
    (tmp_path / "merged" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"was trained on other weights than those in .*, or is merged into them"):
        convert(tmp_path / "merged", tmp_path / "twice", "hf", adapter=adapter)


def test_a_merge_that_computes_something_else_is_not_written(
    adapter: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, read = load_checkpoint(golden / "micro").model, read_adapter(adapter)
    with pytest.raises(CheckpointError, match=r"their logits differ by .* of their spread, more than rounding"):
        check_merge(base, read, load_checkpoint(golden / "micro").model)
    monkeypatch.setattr(room, "check_merge", lambda _, found, model: check_merge(base, doubled(found), model))
    with pytest.raises(CheckpointError, match="nothing was written"):
        convert(golden / "micro", tmp_path / "merged", "hf", adapter=adapter)
    assert not (tmp_path / "merged").exists()


def doubled(adapter: Any) -> Any:
    return dataclasses.replace(adapter, updates={n: (a, b, 2 * s) for n, (a, b, s) in adapter.updates.items()})


def test_scales_follow_pattern_and_rank(adapter: Path) -> None:
    name = "language_model.lm_head.weight"
    assert read_adapter(adapter).updates[name][2] == 1.0
    change(adapter, lora_alpha=8, alpha_pattern={"lm_head": 2}, use_rslora=True)
    assert read_adapter(adapter).updates[name][2] == 1.0
    assert read_adapter(adapter).updates["projector.fc1.weight"][2] == 4.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3', use_dora False, .*; only plain LoRA can be merged"),
        ({"use_dora": True}, "use_dora True"),
        ({"lora_alpha": "many"}, "field 'lora_alpha' is 'many', but must be a finite number"),
    ],
)
def test_other_adapters_are_refused(adapter: Path, fields: dict[str, Any], message: str) -> None:
    change(adapter, **fields)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.clear(), "holds no weights; restore the adapter"),
        (
            lambda w: w.update({"base_model.model.x.weight": torch.ones(1)}),
            r"which is no weight of a LoRA; merge it with",
        ),
        (lambda w: w.pop(next(n for n in w if "lora_A" in n)), r"has the parts \{'B': .*\}, where A"),
        (lambda w: w.update({next(n for n in w if "lora_A" in n): torch.ones(5, 7)}), r"has the parts"),
        (lambda w: next(iter(w.values())).fill_(float("nan")), r"holds values that are not finite; restore the file"),
    ],
)
def test_a_damaged_adapter_is_named(adapter: Path, edit: Any, message: str) -> None:
    rewrite(adapter, edit)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(adapter)


def test_an_adapter_of_another_model_is_named(adapter: Path, golden: Path, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapts 'language_model\.lm_head\.weight' with B \[384, 4\] and A"):
        convert(saved, tmp_path / "merged", "hf", adapter=adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has neither adapter_model\.safetensors nor adapter_model\.bin"):
        read_adapter(adapter)
