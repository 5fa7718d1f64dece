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
from openvla.train.recipes import Demonstrations, Stage


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[tuple, dict[str, Any]]]:
    """What was recorded, in an empty working directory with three recipes.

    "tiny" has demonstrations, "given" none, "twice" two stages, the second from where the first ends.
    """

    def tiny(data: Path, output: Path) -> tuple[Stage, ...]:
        return (Stage(TrainConfig(data, output, "preset:nano"), Demonstrations("metaworld", 3, 64, seed=9, noise=0.5)),)

    def given(data: Path, output: Path) -> tuple[Stage, ...]:
        return (Stage(TrainConfig(data, output, "preset:nano")),)

    def twice(data: Path, output: Path) -> tuple[Stage, ...]:
        softer = Demonstrations("metaworld", 2, 64, seed=5, gain=0.5)
        second = Stage(TrainConfig(data / "b", output / "b", str(output / "a" / "final")), softer)
        return (*tiny(data / "a", output / "a"), second)

    calls: list[tuple[tuple, dict[str, Any]]] = []
    module = ModuleType("openvla.train.recipes")
    module.RECIPES = {"tiny": tiny, "given": given, "twice": twice}
    monkeypatch.setitem(sys.modules, "openvla.train.recipes", module)
    monkeypatch.setattr(recording, "record_dataset", lambda *args, **settings: calls.append((args, settings)))
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_recipe_records_what_it_needs_and_trains_on_it(runs, recorded, capsys) -> None:
    assert main(["train", "tiny", "--workers", "4", "--device", "cpu"]) == 0
    settings = {"seed": 9, "noise": 0.5, "image_size": 64, "workers": 4, "gain": 1.0}
    assert recorded == [((Path("data/tiny"), "metaworld", None, 3), settings)]
    assert runs == [TrainConfig(Path("data/tiny"), Path("runs/tiny"), "preset:nano", device="cpu")]


def test_a_second_stage_starts_where_the_first_ends_on_its_own_recordings(runs, recorded, capsys) -> None:
    assert main(["train", "twice"]) == 0
    assert [arguments[0] for arguments, _ in recorded] == [Path("data/twice/a"), Path("data/twice/b")]
    assert [settings["gain"] for _, settings in recorded] == [1.0, 0.5]
    assert [run.checkpoint for run in runs] == ["preset:nano", "runs/twice/a/final"]


def test_resuming_a_recipe_begins_the_stages_that_have_not_begun(runs, recorded, capsys, tmp_path) -> None:
    (tmp_path / "runs/twice/a").mkdir(parents=True)
    assert main(["train", "twice", "--resume"]) == 0
    assert [run.resume for run in runs] == [True, False]


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
