from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openvla.cli.main import main
from openvla.data import recording
from openvla.train.config import TrainConfig
from openvla.train.stage import Demonstrations, Stage


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[tuple, dict[str, Any]]]:
    """What was recorded, in an empty working directory with three recipes.

    "tiny" has demonstrations, "given" none, "twice" two stages, the second from where the first ends.
    """

    def tiny(data: Path, output: Path) -> tuple[Stage, ...]:
        """A tiny run.

        It takes seconds.
        """
        return (Stage(TrainConfig(data, output, "preset:nano"), Demonstrations("metaworld", 3, 64, seed=9, noise=0.5)),)

    def given(data: Path, output: Path) -> tuple[Stage, ...]:
        return (Stage(TrainConfig(data, output, "preset:nano")),)

    def twice(data: Path, output: Path) -> tuple[Stage, ...]:
        softer = Demonstrations("metaworld", 2, 64, seed=5, gain=0.5)
        second = Stage(TrainConfig(data / "b", output / "b", str(output / "a" / "final"), augment=True), softer)
        return (*tiny(data / "a", output / "a"), second)

    calls: list[tuple[tuple, dict[str, Any]]] = []
    module = ModuleType("openvla.train.recipes")
    module.RECIPES = {"tiny": tiny, "given": given, "twice": twice}
    monkeypatch.setitem(sys.modules, "openvla.train.recipes", module)
    monkeypatch.setattr(recording, "record_dataset", lambda *args, **settings: calls.append((args, settings)))
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_recipe_records_what_it_needs_and_trains_on_it(runs, recorded, capsys) -> None:
    assert main(["train", "tiny", "--simulators", "4", "--device", "cpu"]) == 0
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


def test_any_setting_can_be_changed_and_holds_in_every_stage(runs, recorded, capsys) -> None:
    line = "train twice --steps 7 --learning-rate=1e-4 --checkpoint start --no-augment --data d --output o"
    assert main(line.split()) == 0
    assert [(run.steps, run.learning_rate, run.augment) for run in runs] == [(7, 1e-4, False)] * 2
    assert [run.checkpoint for run in runs] == ["start", "o/a/final"]
    assert [run.data for run in runs] == [Path("d/a"), Path("d/b")]


def test_what_is_not_named_stays_as_each_stage_has_it(runs, recorded, capsys) -> None:
    assert main(["train", "twice", "--steps", "7"]) == 0
    assert [run.augment for run in runs] == [False, True]


def test_a_dry_run_trains_nothing_and_shows_the_settings(runs, recorded, capsys) -> None:
    assert main("train twice --steps 7 --dry-run --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["settings"]["steps"] for stage in found["stages"]] == [7, 7]
    assert not runs
    assert not recorded


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("--steps 0", "steps is 0; give a whole number from 1"),
        ("--mixture bridgee", "unknown mixture or data set 'bridgee'; did you mean 'bridge'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(runs, recorded, capsys, setting, sentence) -> None:
    assert main(f"train tiny {setting} --dry-run".split()) == 2
    assert sentence in capsys.readouterr().err


def test_a_dry_run_of_a_published_recipe_says_what_it_needs(runs, capsys) -> None:
    assert main("train openvla-7b --data d --batch-size 1024 --dry-run".split()) == 0
    text = capsys.readouterr().out
    assert re.search(r"^batch_size +1024$", text, re.MULTILINE)
    assert "for 64 card(s) with 80 GiB" in text
    assert "7,541,237,184 of 7,541,237,184 parameters are trained" in text
    assert not runs


def test_another_checkpoint_is_not_planned_with_the_recipes_sizes(runs, capsys) -> None:
    assert main("train finetune-lora --checkpoint nano --dry-run --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["plan"] is None


def test_help_lists_the_recipes_with_a_line_each(recorded, capsys) -> None:
    assert main(["train", "--help"]) == 0
    assert re.search(r"^tiny +A tiny run$", capsys.readouterr().out, re.MULTILINE)


def test_help_of_a_recipe_shows_its_own_values(recorded, capsys) -> None:
    assert main(["train", "tiny", "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: openvla train tiny" in text
    assert "default: data/tiny" in text


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "name a recipe first: tiny, given, twice; `openvla train --help` describes them"),
        ("--steps 3 tiny", "name a recipe first"),
        ("tiny --stepps 3", "Unrecognized options: --stepps"),
        ("tiny --steps many", "Error parsing --steps"),
        ("tiny --recipe other", "Unrecognized options: --recipe"),
    ],
)
def test_bad_usage_is_one_sentence(runs, recorded, capsys, line, sentence) -> None:
    assert main(["train", *line.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert not runs
