from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openvla.cli.main import main
from openvla.data import recording
from openvla.train.config import TrainConfig
from openvla.train.recipes import Demonstrations, Recipe


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[tuple, dict[str, Any]]]:
    """What was recorded, in an empty working directory with two recipes: "tiny", and "given" without demonstrations."""

    def tiny(data: Path, output: Path) -> Recipe:
        return Recipe(TrainConfig(data, output, "preset:nano"), Demonstrations("metaworld", 3, 0.5, 64, seed=9))

    def given(data: Path, output: Path) -> Recipe:
        return Recipe(TrainConfig(data, output, "preset:nano"))

    calls: list[tuple[tuple, dict[str, Any]]] = []
    module = ModuleType("openvla.train.recipes")
    module.RECIPES = {"tiny": tiny, "given": given}
    monkeypatch.setitem(sys.modules, "openvla.train.recipes", module)
    monkeypatch.setattr(recording, "record_dataset", lambda *args, **settings: calls.append((args, settings)))
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_recipe_records_what_it_needs_and_trains_on_it(runs, recorded, capsys) -> None:
    assert main(["train", "tiny", "--workers", "4", "--device", "cpu"]) == 0
    settings = {"seed": 9, "noise": 0.5, "image_size": 64, "workers": 4}
    assert recorded == [((Path("data/tiny"), "metaworld", None, 3), settings)]
    assert runs == [TrainConfig(Path("data/tiny"), Path("runs/tiny"), "preset:nano", device="cpu")]


def test_demonstrations_that_are_there_are_used(runs, recorded, capsys, tmp_path) -> None:
    assert main(["train", "tiny", "--data", str(tmp_path), "--output", "elsewhere", "--resume"]) == 0
    assert not recorded
    assert (runs[0].data, runs[0].output, runs[0].resume) == (tmp_path, Path("elsewhere"), True)


def test_a_recipe_without_demonstrations_records_nothing(runs, recorded, capsys) -> None:
    assert main(["train", "given", "--json"]) == 0
    assert not recorded
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "runs/x/final"


def test_an_unknown_recipe_offers_the_nearest(runs, recorded, capsys) -> None:
    assert main(["train", "tinny"]) == 2
    assert "unknown recipe 'tinny'; did you mean 'tiny'?" in capsys.readouterr().err
    assert not runs
