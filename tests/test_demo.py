"""The pipeline test: simulator, demonstrations, LoRA training, closed-loop evaluation and report, small."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openvla.demo import NEW_TASK, DemoConfig, run_demo
from openvla.errors import MissingDependencyError, SimulatorError, UsageError
from openvla.model.checkpoint import load_checkpoint, save_checkpoint
from openvla.train.config import TrainConfig
from openvla.train.data import with_statistics
from openvla.train.fresh import fresh_checkpoint


@pytest.fixture
def checkpoint(toy_data: Path, tmp_path: Path) -> str:
    """An untrained model of milliseconds that knows how Meta-World's actions are scaled."""
    start = fresh_checkpoint("micro", "metaworld", 0)
    codec = with_statistics(start.codec, TrainConfig(data=toy_data, output=tmp_path, checkpoint="preset:micro"))
    save_checkpoint(tmp_path / "start", dataclasses.replace(start, codec=codec))
    return str(tmp_path / "start")


def test_the_demonstration_goes_all_the_way(checkpoint: str, tmp_path: Path) -> None:
    try:
        from openvla.sim.metaworld import MetaWorld

        MetaWorld(NEW_TASK).close()
    except (SimulatorError, MissingDependencyError) as error:
        pytest.skip(f"needs a simulator that can draw: {error}")
    config = DemoConfig(
        output=tmp_path / "demo",
        known_tasks=("door-close",),
        known_episodes=1,
        demonstrations=2,
        steps=2,
        episodes=1,
        workers=1,
    )
    result = run_demo(config, checkpoint)
    assert set(result.known.tasks) == {"door-close"}
    assert set(result.before.tasks) == set(result.after.tasks) == {NEW_TASK}
    page = result.report.read_text()
    assert page.count("<video") == 3
    assert "new task before" in page
    adapted = load_checkpoint(tmp_path / "demo" / "4-training" / "final").codec
    assert adapted.statistics.keys() == {"metaworld"}


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already; remove it or choose another output"):
        run_demo(DemoConfig(output=tmp_path))
