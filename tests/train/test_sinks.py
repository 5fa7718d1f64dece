from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openvla.errors import MissingDependencyError, TrainingError, UsageError
from openvla.train.config import TrainConfig
from openvla.train.loop import train
from openvla.train.sinks import METRICS, MetricLog, check_sinks

Make = Callable[..., TrainConfig]


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[tuple[str, Any]]]:
    """A package that notes what it is told."""
    calls: list[tuple[str, Any]] = []
    module = ModuleType(request.param)
    module.init = lambda **settings: calls.append(("init", settings))
    module.log = lambda values, step: calls.append(("log", (step, values)))
    module.finish = lambda: calls.append(("finish", None))
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, calls


@pytest.mark.parametrize(
    ("named", "sinks"),
    [
        ("", ["jsonl"]),
        ("none", ["jsonl"]),
        ("tensorboard", ["jsonl", "tensorboard"]),
        ("tensorboard, jsonl", ["jsonl", "tensorboard"]),
    ],
)
def test_metrics_jsonl_is_always_written(named: str, sinks: list[str]) -> None:
    assert check_sinks(named) == sinks


def test_an_unknown_sink_is_named() -> None:
    with pytest.raises(UsageError, match="unknown sink 'tensorbord'; did you mean 'tensorboard'"):
        check_sinks("tensorbord")


def test_a_sink_without_its_package_is_refused_before_anything_is_written(config: Make, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"'wandb' is not installed; .* 'openvla\[wandb\]'"):
        train(config(sinks="wandb"))
    assert not config().output.exists()


def test_a_run_without_sinks_writes_its_lines_alone(config: Make) -> None:
    train(config(sinks="none", steps=1))
    assert (config().output / METRICS).exists()
    assert not (config().output / "tensorboard").exists()


def test_a_tracker_is_told_the_settings_and_every_number_and_keeps_its_run_on_resume(tracker, config: Make) -> None:
    name, calls = tracker
    train(config(sinks=name, steps=2))
    (config().output / "final" / "config.json").unlink()
    train(config(sinks=name, steps=2, resume=True))
    first, second = (settings for kind, settings in calls if kind == "init")
    assert first["project"] == "openvla"
    assert first["config"]["steps"] == 2
    assert first["name"] == second["name"]
    logged = [values for kind, values in calls if kind == "log"]
    lines = [json.loads(line) for line in (config().output / METRICS).read_text().splitlines()]
    assert {"step": logged[1][0], **logged[1][1]} == lines[1]
    assert [kind for kind, _ in calls].count("finish") == 2


def test_a_tracker_that_refuses_is_one_sentence(tracker, config: Make) -> None:
    def refuse(**settings: object) -> None:
        raise RuntimeError("no API key\nconfigured")

    sys.modules[tracker[0]].init = refuse
    with pytest.raises(TrainingError, match=rf"^{tracker[0]} cannot start \(no API key\); log in to it, or leave it"):
        train(config(sinks=tracker[0], steps=1))


def test_lines_after_the_checkpoint_and_torn_ones_are_taken_back(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n[4]\n{"st')
    log = MetricLog(["jsonl"], tmp_path, 2, {})
    log.write(3, {"a": 33.0})
    log.close()
    assert [json.loads(line)["a"] for line in (tmp_path / METRICS).read_text().splitlines()] == [1, 2, 33.0]


def test_a_new_run_starts_with_no_lines(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n')
    MetricLog(["jsonl"], tmp_path, 0, {}).close()
    assert (tmp_path / METRICS).read_text() == ""
