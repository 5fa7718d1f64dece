from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openvla.errors import CheckpointError
from openvla.model import locate
from openvla.model.locate import resolve


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What was downloaded, of a hub that holds one checkpoint and one folder with another."""
    asked: list[tuple[str, list[str]]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        for folder in (tmp_path, tmp_path / "siglip-224px+7b"):
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(locate, "snapshot_download", download)
    return asked


def test_a_hub_id_is_downloaded(hub: list[Any], tmp_path: Path) -> None:
    assert resolve("lab/model") == (tmp_path, None)
    assert hub[0][0] == "lab/model"
    assert "*.safetensors" in hub[0][1]


def test_of_a_collection_one_folder_is_downloaded(hub: list[Any], tmp_path: Path) -> None:
    assert resolve("TRI-ML/prismatic-vlms/siglip-224px+7b") == (tmp_path / "siglip-224px+7b", None)
    repository, patterns = hub[0]
    assert repository == "TRI-ML/prismatic-vlms"
    assert "siglip-224px+7b/*.json" in patterns
    assert all(pattern.startswith("siglip-224px+7b/") for pattern in patterns)


def test_a_path_that_is_not_there_is_not_asked_of_the_hub(hub: list[Any]) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint 'runs/nano/final'"):
        resolve("runs/nano/final")
    assert not hub


def test_of_a_collection_a_folder_must_be_named(hub: list[Any]) -> None:
    with pytest.raises(CheckpointError, match=r"or 'TRI-ML/prismatic-vlms/siglip-224px\+7b' for one of many"):
        resolve("TRI-ML/prismatic-vlms")
    assert not hub


def test_a_training_run_is_told_from_its_result(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no config\.json; give the directory that holds it"):
        resolve(tmp_path)
    (tmp_path / "progress.json").touch()
    with pytest.raises(CheckpointError, match=r"it is a saved step of a training run; `openvla convert .* TARGET`"):
        resolve(tmp_path)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"it is a training run; give its result, .*final$"):
        resolve(tmp_path)
