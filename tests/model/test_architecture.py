from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.errors import CheckpointError
from openvla.model import architecture
from openvla.model.architecture import read_architecture
from openvla.model.presets import PRESETS
from openvla.model.published import write_config


def test_a_directory_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(write_config(PRESETS["phi-2+3b"])))
    assert read_architecture(tmp_path) == PRESETS["phi-2+3b"].model


def test_a_native_run_is_read_by_its_ids(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}}))
    assert read_architecture(tmp_path) == PRESETS["prism-dinosiglip-224px+7b"].model


def test_a_hub_id_downloads_its_config_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def download(*names: str) -> str:
        asked.append(names)
        (tmp_path / "config.json").write_text(json.dumps(write_config(PRESETS["openvla-7b"])))
        return str(tmp_path / "config.json")

    monkeypatch.setattr(architecture, "hf_hub_download", download)
    assert read_architecture("openvla/openvla-7b") == PRESETS["openvla-7b"].model
    assert asked == [("openvla/openvla-7b", "config.json")]


def test_a_hub_that_has_it_not_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: str) -> str:
        raise OSError("404 Client Error")

    monkeypatch.setattr(architecture, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"no directory 'lab/absent', and no config.json .* \(404 Client Error\)"):
        read_architecture("lab/absent")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        read_architecture(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint 'absent'"):
        read_architecture("absent")


def test_a_folder_of_a_collection_is_a_hub_id_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def download(*names: str) -> str:
        asked.append(names)
        (tmp_path / "config.json").write_text(json.dumps(write_config(PRESETS["siglip-224px+7b"])))
        return str(tmp_path / "config.json")

    monkeypatch.setattr(architecture, "hf_hub_download", download)
    assert read_architecture("TRI-ML/prismatic-vlms/siglip-224px+7b") == PRESETS["siglip-224px+7b"].model
    assert asked == [("TRI-ML/prismatic-vlms", "siglip-224px+7b/config.json")]
