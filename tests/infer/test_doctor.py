from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla.errors import CheckpointError
from openvla.infer import doctor as room
from openvla.infer.doctor import diagnose
from openvla.model.prismatic import OpenVLA


@pytest.fixture
def micro(golden: Path, tmp_path: Path) -> Path:
    shutil.copytree(golden / "micro", tmp_path / "micro")
    return tmp_path / "micro"


def outcome(found: room.Diagnosis) -> dict[str, bool | None]:
    return {check.name: check.ok for check in found.checks}


def test_a_sound_checkpoint_is_fingerprinted_on_first_use_and_recognised_after(micro: Path) -> None:
    first = diagnose(micro)
    assert outcome(first) == {
        "finite weights": True, "sees the image": True, "attention looks back": True, "tokenizer": None,
        "fingerprint": True,
    }  # fmt: skip
    assert (micro / "fingerprint.json").is_file()
    again = diagnose(micro)
    assert not again.failures
    assert "same weights, logits differ from the stored ones by" in again.checks[-1].detail


def test_facts_say_which_file_they_come_from(micro: Path) -> None:
    facts = diagnose(micro).facts
    assert facts["format"]["value"] == "hf"
    assert facts["rms_norm_eps"] == {"value": 1e-6, "from": "config.json, text_config"}
    assert facts["mean"]["from"] == "preprocessor_config.json"
    assert facts["statistics"] == {"value": ["toy"], "from": "config.json, norm_stats"}
    (micro / "preprocessor_config.json").unlink()
    config = json.loads((micro / "config.json").read_text())
    del config["text_config"]["rms_norm_eps"]
    (micro / "config.json").write_text(json.dumps(config))
    facts = diagnose(micro, write=True).facts
    assert facts["mean"]["from"] == "config.json, timm_model_ids (exact constants)"
    assert facts["rms_norm_eps"]["from"].startswith("the default of the published configuration class")


def test_one_changed_weight_is_drift(micro: Path) -> None:
    diagnose(micro)
    weights = load_file(micro / "model.safetensors")
    weights["projector.fc1.weight"][1, 1] += 0.5
    save_file(weights, micro / "model.safetensors")
    found = diagnose(micro)
    assert outcome(found)["fingerprint"] is False
    assert "the weights are not those whose fingerprint is stored" in found.checks[-1].detail
    assert outcome(diagnose(micro, write=True))["fingerprint"] is True
    assert not diagnose(micro).failures


def test_another_epsilon_is_drift_though_the_weights_are_the_same(micro: Path) -> None:
    diagnose(micro)
    config = json.loads((micro / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.5
    (micro / "config.json").write_text(json.dumps(config))
    found = diagnose(micro)
    assert "the same weights compute something else here" in found.checks[-1].detail


def test_a_nan_stops_the_examination(micro: Path) -> None:
    weights = load_file(micro / "model.safetensors")
    weights["vision_backbone.featurizer.norm.bias"][0] = float("nan")
    save_file(weights, micro / "model.safetensors")
    found = diagnose(micro)
    assert [check.name for check in found.failures] == ["finite weights"]
    assert "'vision_backbone.featurizer.norm.bias' holds 1 values that are not finite" in found.failures[0].detail
    assert not (micro / "fingerprint.json").exists()


def test_a_model_that_does_not_look_at_its_image_is_found(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = OpenVLA.embed
    monkeypatch.setattr(
        OpenVLA, "embed", lambda self, ids, pixels, has_image: embed(self, ids, torch.zeros_like(pixels), has_image)
    )
    assert outcome(diagnose(micro))["sees the image"] is False


def test_attention_in_both_directions_is_found(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openvla.nn import attention

    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda *args, **settings: plain(*args, **{**settings, "is_causal": False}),
    )
    found = diagnose(micro)
    assert outcome(found)["attention looks back"] is False


def test_a_tokenizer_without_its_space_token_is_found(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "golden" / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny").chmod(0o755)
    path = tmp_path / "tiny" / "tokenizer.json"
    path.chmod(0o644)
    assert outcome(diagnose(tmp_path / "tiny"))["suffix token"] is True
    path.write_text(path.read_text().replace('"▁":29871', '"▁▁▁▁▁":29871').replace('"▁": 29871', '"▁▁▁▁▁": 29871'))
    try:
        found = outcome(diagnose(tmp_path / "tiny"))
    except CheckpointError:
        return
    assert False in (found.get("tokenizer"), found.get("suffix token"))


def test_a_read_only_directory_is_left_alone(micro: Path) -> None:
    micro.chmod(0o555)
    try:
        found = diagnose(micro)
        assert outcome(found)["fingerprint"] is None
        assert "is read-only" in found.checks[-1].detail
        assert outcome(diagnose(micro, write=True))["fingerprint"] is False
        assert not (micro / "fingerprint.json").exists()
    finally:
        micro.chmod(0o755)
