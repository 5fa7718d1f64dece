from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openvla.errors import CheckpointError
from openvla.model import locate
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.convert import convert
from openvla.model.names import native_name
from openvla.model.native import read_native_config, write_native_config
from openvla.model.presets import PRESETS
from openvla.model.published import read_model_config, write_config

NAME = "step-000010-epoch-00-loss=0.1234.pt"


@pytest.fixture
def run(golden: Path, tmp_path: Path) -> Path:
    """A native run of the small published checkpoint, written with torch.save, with the sizes at its top level."""
    published = load_checkpoint(golden / "micro")
    parts: dict[str, dict[str, Tensor]] = {"vision_backbone": {}, "llm_backbone": {}, "projector": {}}
    for name, tensor in published.model.state_dict().items():
        part, _, rest = native_name(name, published.config["timm_model_ids"]).partition(".")
        parts[part][rest] = tensor.clone()
    directory = tmp_path / "run"
    (directory / "checkpoints").mkdir(parents=True)
    torch.save({"model": parts, "optimizer": {"lr": 1.0}}, directory / "checkpoints" / NAME)
    config = {name: published.config[name] for name in ("encoders", "image_sizes", "text_config")}
    config["vla"] = {"base_vlm": "prism-dinosiglip-224px+7b", "vla_id": "x"}
    config["text_config"] = {name: value for name, value in config["text_config"].items() if name != "rms_norm_eps"}
    (directory / "config.json").write_text(json.dumps(config))
    statistics = json.dumps(published.config["norm_stats"])
    (directory / "dataset_statistics.json").write_text(statistics)
    return directory


def rewrite(run: Path, change: Any) -> None:
    tree = torch.load(run / "checkpoints" / NAME)
    change(tree)
    torch.save(tree, run / "checkpoints" / NAME)


def test_a_run_loads_with_the_numbers_of_native_code(run: Path, golden: Path) -> None:
    ours, published = load_checkpoint(run), load_checkpoint(golden / "micro")
    wanted = published.model.state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in ours.model.state_dict().items())
    assert (ours.model.config.decoder.rms_norm_eps, published.model.config.decoder.rms_norm_eps) == (1e-5, 1e-6)
    assert ours.codec.images.means[0] == (0.485, 0.456, 0.406)
    assert list(ours.codec.statistics) == ["toy"]


def test_a_pt_file_is_a_source_too(run: Path) -> None:
    (run / "checkpoints" / "step-000020.pt").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"holds 2 files .* and none is latest-checkpoint\.pt; give the path"):
        load_checkpoint(run)
    load_checkpoint(run / "checkpoints" / NAME)
    (run / "checkpoints" / NAME).rename(run / "checkpoints" / "latest-checkpoint.pt")
    load_checkpoint(run)


def test_a_run_without_weights_is_said(run: Path) -> None:
    (run / "checkpoints" / NAME).unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints holds no \.pt file"):
        load_checkpoint(run)


@pytest.mark.parametrize(
    ("vision", "llm", "arch"),
    [
        ("dinosiglip-vit-so-224px", "llama2-7b-pure", "no-align+fused-gelu-mlp"),
        ("clip-vit-l-336px", "vicuna-v15-13b", "gelu-mlp"),
        ("dinov2-vit-l", "mistral-v0.1-7b-pure", "linear"),
    ],
)
def test_a_vision_language_run_has_its_sizes_from_its_ids(vision: str, llm: str, arch: str) -> None:
    model = {"vision_backbone_id": vision, "llm_backbone_id": llm, "arch_specifier": arch}
    config = read_native_config({"model": model | {"image_resize_strategy": "letterbox"}, "seed": 7}, "config.json")
    found = read_model_config(config, "config.json")
    assert found.decoder.rms_norm_eps == 1e-5
    assert config["image_resize_strategy"] == "letterbox"
    assert found.projector == arch.removeprefix("no-align+")


@pytest.mark.parametrize("preset", ["openvla-7b", "openvla-v01-7b"])
def test_a_published_config_comes_back_from_a_native_one(preset: str) -> None:
    config = write_config(PRESETS[preset])
    native = write_native_config(config)
    assert read_native_config(native, "config.json") == config
    assert (
        native["vla"]["base_vlm"]
        == {"openvla-7b": "prism-dinosiglip-224px+7b", "openvla-v01-7b": "siglip-224px+7b"}[preset]
    )
    assert native["model"]["arch_specifier"] == config["arch_specifier"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "has neither 'vla' nor 'model'"),
        ({"vla": {}}, "vla lacks the field 'base_vlm'"),
        ({"vla": {"base_vlm": "prism-dinosiglip-224px+8b"}}, r"unknown base_vlm .*; did you mean"),
        ({"model": {"vision_backbone_id": "x"}}, "model lacks the field 'llm_backbone_id'"),
        ({"model": {"vision_backbone_id": "x", "llm_backbone_id": "llama2-7b-pure", "arch_specifier": "linear",
                    "image_resize_strategy": "letterbox"}}, "unknown vision backbone 'x'"),
    ],
)  # fmt: skip
def test_a_run_of_unknown_parts_is_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_native_config(raw, "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("model"), "has no 'model' with parts of tensors"),
        (
            lambda tree: tree["model"].update(action_head={"w": torch.ones(1)}),
            r"holds the tensor 'action_head\.w', which",
        ),
        (
            lambda tree: tree["model"].pop("projector"),
            r"lacks the tensor 'projector\.fc1\.weight' .* \(6 absent in all\)",
        ),
        (lambda tree: tree["model"]["projector"].update({"projector.0.bias": torch.ones(3)}), r"has shape \[3\]"),
    ],
)
def test_a_file_of_another_model_is_named(run: Path, change: Any, message: str) -> None:
    rewrite(run, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(run)


def without_vision(run: Path, tmp_path: Path) -> list[Path]:
    """Take the vision weights out of a run, into one file per encoder."""
    tree = torch.load(run / "checkpoints" / NAME)
    vision = tree["model"].pop("vision_backbone")
    torch.save(tree, run / "checkpoints" / NAME)
    files: list[Path] = []
    for prefix in ("dino_featurizer.", "siglip_featurizer."):
        files.append(tmp_path / f"{prefix}bin")
        part = {name.removeprefix(prefix): tensor for name, tensor in vision.items() if name.startswith(prefix)}
        torch.save(part, files[-1])
    return files


def test_missing_vision_weights_are_taken_from_files(run: Path, tmp_path: Path, golden: Path) -> None:
    files = without_vision(run, tmp_path)
    wanted = load_checkpoint(golden / "micro").model.state_dict()
    loaded = load_checkpoint(run, vision_weights=files).model.state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in loaded.items())
    convert(run, tmp_path / "hf", "hf", vision_weights=files)
    assert len(load_checkpoint(tmp_path / "hf").model.state_dict()) == len(wanted)
    with pytest.raises(CheckpointError, match=r"needs the weights of 2 vision encoders .* names 1 file"):
        load_checkpoint(run, vision_weights=files[:1])
    with pytest.raises(CheckpointError, match=r"holds vision weights of its own; leave --vision-weights out"):
        load_checkpoint(golden / "micro", vision_weights=files)


def test_missing_vision_weights_name_what_is_needed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(*_: str) -> str:
        raise OSError("no connection")

    without_vision(run, tmp_path)
    monkeypatch.setattr(locate, "hf_hub_download", out_of_reach)
    with pytest.raises(
        CheckpointError, match=r"needs those of timm's 'vit_large_patch14_reg4_dinov2\.lvd142m'.*--vision-weights"
    ):
        load_checkpoint(run)


def test_a_run_that_we_wrote_is_our_checkpoint_again(checkpoint: Checkpoint, saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "native", "prismatic")
    again = load_checkpoint(tmp_path / "native")
    ours, theirs = checkpoint.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.model.config == checkpoint.model.config
    assert again.codec.images == checkpoint.codec.images
