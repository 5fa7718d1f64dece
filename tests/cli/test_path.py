"""The whole path through the command line, small: demonstrations, training, an action, an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla.cli.main import main
from openvla.errors import MissingDependencyError, SimulatorError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations, and a policy trained on them for two steps."""
    from openvla.sim.metaworld import MetaWorld

    try:
        MetaWorld("reach").close()
    except (SimulatorError, MissingDependencyError) as error:
        pytest.skip(f"needs a simulator that can draw: {error}")
    folder = tmp_path_factory.mktemp("path")
    data, run = folder / "data", folder / "run"
    assert main(["data", "generate", "--tasks", "reach", "door-lock", "--episodes", "2", "--output", str(data)]) == 0
    line = "finetune --checkpoint preset:nano --method full --steps 2 --batch-size 2 --device cpu"
    assert main([*line.split(), "--data", str(data), "--output", str(run)]) == 0
    return folder


def test_a_trained_checkpoint_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(folder / "frame.png")
    line = ["predict", "--checkpoint", str(folder / "run" / "final"), "--image", str(folder / "frame.png")]
    assert main([*line, "--instruction", "reach the goal", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert np.shape(found["values"]) == np.shape(found["tokens"]) == np.shape(found["confidence"]) == (1, 4)
    assert found["timing_ms"]["total"] > 0


def test_an_unknown_statistics_key_is_refused_with_the_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(folder / "frame.png")
    line = ["predict", "--checkpoint", str(folder / "run" / "final"), "--image", str(folder / "frame.png")]
    assert main([*line, "--instruction", "reach", "--statistics", "berkeley"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "'berkeley'" in err
    assert "metaworld" in err


def test_a_trained_checkpoint_is_evaluated(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = "eval --suite metaworld --tasks reach --episodes 2 --json --device cpu".split()
    more = ["--checkpoint", str(folder / "run" / "final"), "--workers", "2", "--output", str(folder / "out")]
    assert main([*line, *more]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["episodes"] == 2
    assert set(found["tasks"]) == {"reach"}
    assert (folder / "out" / "report.html").is_file()


def test_adapters_are_merged_into_a_checkpoint_that_acts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "finetune --method lora --rank 4 --steps 1 --batch-size 2 --device cpu --json".split()
    more = ["--checkpoint", str(folder / "run" / "final"), "--data", str(folder / "data")]
    assert main([*line, *more, "--output", str(folder / "lora")]) == 0
    final = json.loads(capsys.readouterr().out)["checkpoint"]
    Image.fromarray(np.zeros((64, 48, 3), np.uint8)).save(folder / "frame.png")
    line = ["predict", "--checkpoint", final, "--image", str(folder / "frame.png"), "--instruction", "reach the goal"]
    assert main([*line, "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["values"]).all()


def test_a_run_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "finetune --checkpoint preset:nano --method full --steps 2 --batch-size 2 --device cpu".split()
    assert main([*line, "--data", str(folder / "data"), "--output", str(folder / "run")]) == 2
    assert "is not empty; resume that run with --resume, or choose another output" in capsys.readouterr().err
