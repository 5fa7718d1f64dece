"""The script of the two experiments: a tiny grid end to end, and what happens when it is stopped or misused."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openvla.cli.main import main
from openvla.errors import MissingDependencyError, SimulatorError, UsageError
from openvla.model.checkpoint import save_checkpoint
from openvla.train.config import TrainConfig
from openvla.train.data import with_statistics
from openvla.train.fresh import fresh_checkpoint

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("experiments")


@pytest.fixture
def commands(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells run in this process, which is much faster; here are their names, as they begin."""
    begun: list[str] = []

    def wait(bench: Any, command: Sequence[str], printed: Any, errors: Any) -> tuple[int, int]:
        begun.append(Path(errors.name).stem)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            status = main(command[3:])
        return status, 2**20

    monkeypatch.setattr(script.Bench, "wait", wait)
    return begun


@pytest.fixture
def grid(script: ModuleType, toy_data: Path, tmp_path: Path) -> Any:
    """One method, one seed, one task, and an untrained model of milliseconds."""
    start = fresh_checkpoint("micro", "metaworld", 0)
    codec = with_statistics(start.codec, TrainConfig(data=toy_data, output=tmp_path, checkpoint="preset:micro"))
    save_checkpoint(tmp_path / "start", dataclasses.replace(start, codec=codec))
    return script.Grid(
        checkpoint=str(tmp_path / "start"),
        tasks=("handle-press",),
        methods=("lora",),
        seeds=(0,),
        demonstrations=2,
        steps=2,
        batch_size=2,
        episodes=1,
        precisions=("bf16",),
        quantized_methods=("lora",),
        known_tasks=("door-close",),
        known_episodes=1,
        bench_runs=2,
    )


def test_a_tiny_grid_goes_all_the_way_and_is_not_measured_twice(script, commands, grid, tmp_path) -> None:
    try:
        from openvla.sim.metaworld import MetaWorld

        MetaWorld("handle-press").close()
    except (SimulatorError, MissingDependencyError) as error:
        pytest.skip(f"needs a simulator that can draw: {error}")
    options = script.Options(output=tmp_path / "out", grid=grid, workers=1)
    tables = script.run(options)
    assert commands == [
        "record",
        "train-lora-0",
        "eval-lora-0-bf16",
        "before",
        "train-smallest",
        "known-bf16",
        "pace-lora",
        "bench-bf16",
    ]
    assert "not measured" not in tables
    row = next(line for line in tables.splitlines() if line.startswith("| lora | ") and "MiB" not in line)
    cells = row.strip("| ").split(" | ")
    assert cells[1].endswith("% of 1")
    assert float(cells[6].removesuffix(" %")) > 10
    assert not (tmp_path / "out/runs/train-lora-0/checkpoints").exists()
    assert script.run(options) == tables
    assert len(commands) == 8


def test_a_stopped_script_goes_on_with_what_is_missing(script, commands, grid, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script.Bench, "measure", lambda bench, cell: commands.append(cell.name) or outcome())
    options = script.Options(output=tmp_path / "out", grid=grid, workers=1)
    with pytest.raises(KeyError):
        script.run(options)
    (tmp_path / "out/cells/before.json").unlink()
    commands.clear()
    with pytest.raises(KeyError):
        script.run(options)
    assert commands == ["before"]


def outcome() -> dict[str, Any]:
    return {"seconds": 1.0, "peak_memory_bytes": 1, "result": {}, "command": "openvla eval", "circumstances": {}}


def test_no_cell_begins_after_the_last_minute_and_the_tables_say_so(script, commands, grid, tmp_path) -> None:
    tables = script.run(script.Options(output=tmp_path / "out", grid=grid, minutes=0.0))
    assert not commands
    assert tables.count("not measured") > 3


def test_another_grid_in_the_same_directory_is_refused(script, commands, grid, tmp_path) -> None:
    script.run(script.Options(output=tmp_path / "out", grid=grid, minutes=0.0))
    other = dataclasses.replace(grid, steps=3)
    with pytest.raises(UsageError, match="holds another grid: steps was 2; choose another --output"):
        script.run(script.Options(output=tmp_path / "out", grid=other, minutes=0.0))


def test_a_command_that_fails_is_named_and_leaves_no_cell(script, commands, grid, tmp_path) -> None:
    wrong = dataclasses.replace(grid, tasks=("handle-pres",))
    with pytest.raises(UsageError, match="record failed: openvla: unknown Meta-World task 'handle-pres'; did you mean"):
        script.run(script.Options(output=tmp_path / "out", grid=wrong))
    assert not list((tmp_path / "out/cells").iterdir())


def test_a_command_runs_in_a_process_of_its_own_whose_memory_is_told(script, tmp_path) -> None:
    bench = script.Bench(tmp_path, 1, None)
    with (tmp_path / "out").open("w+") as printed, (tmp_path / "err").open("w") as errors:
        status, peak = bench.wait([sys.executable, "-c", "a = bytes(50 << 20); print(len(a))"], printed, errors)
        printed.seek(0)
        assert printed.read() == f"{50 << 20}\n"
    assert status == 0
    assert peak > 50 << 20


def test_the_tables_go_between_the_marks_of_a_document(script, tmp_path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"above\n{script.BEGIN}\nold\n{script.END}\nbelow\n")
    script.put_between(document, "new\n")
    assert document.read_text() == f"above\n{script.BEGIN}\n\nnew\n\n{script.END}\nbelow\n"
    document.write_text("none")
    with pytest.raises(UsageError, match="add them where the tables belong"):
        script.put_between(document, "new")


def test_the_document_has_the_marks_and_the_command(script) -> None:
    text = (SCRIPTS.parent / "docs" / "experiments.md").read_text()
    assert text.index(script.BEGIN) < text.index(script.END)
    assert "python scripts/experiments.py --output experiments --document docs/experiments.md" in text


def test_grids_are_written_as_json(script, grid, tmp_path) -> None:
    script.check_grid(tmp_path / "grid.json", grid)
    assert json.loads((tmp_path / "grid.json").read_text())["tasks"] == ["handle-press"]
