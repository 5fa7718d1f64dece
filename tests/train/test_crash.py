"""What a run leaves behind when it is killed, asked to end, or has no room."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from openvla.errors import StoppedError, TrainingError
from openvla.train import loop
from openvla.train.config import TrainConfig
from openvla.train.loop import train

Make = Callable[..., TrainConfig]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final" / "model.safetensors")


def logged(output: Path) -> list[dict[str, float]]:
    """Every logged number that does not depend on the clock or the machine."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in lines]


def same(broken: Path, straight: Path) -> None:
    assert logged(broken) == logged(straight)
    ours, theirs = weights(broken), weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def killed(words: list[str], output: Path, after: int, delay_s: float) -> None:
    """Start a run and kill it `delay_s` after its checkpoint of step `after` appears (0: after its start)."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    awaited = output / "checkpoints" / f"step-{after:06d}" if after else output / "run.json"
    deadline = time.monotonic() + 120
    while not awaited.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_resumes_bit_for_bit(config: Make, command_line, tmp_path: Path) -> None:
    straight = config(output=tmp_path / "straight", steps=30)
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    killed(command_line(broken), broken.output, 4, 0.0)
    assert not (broken.output / "final").exists()
    train(dataclasses.replace(broken, resume=True))
    same(broken.output, straight.output)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_resumes_bit_for_bit(config: Make, command_line, tmp_path: Path) -> None:
    straight = config(output=tmp_path / "straight", steps=80, save_every=1, validate_every=20)
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    chance = random.Random(7)
    for moment in range(10):
        resumed = dataclasses.replace(broken, resume=(broken.output / "run.json").exists())
        killed(command_line(resumed), broken.output, 7 * moment, chance.uniform(0, 0.3))
        assert not (broken.output / "final").exists()
    train(dataclasses.replace(broken, resume=True))
    same(broken.output, straight.output)


def test_a_run_asked_to_end_saves_and_says_where(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = config(output=tmp_path / "straight", save_every=6)
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    original = loop.Run.train_step

    def ask(run: loop.Run, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, batch)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "train_step", ask)
        with pytest.raises(
            StoppedError, match=r"stopped after step 3 of 6 as asked .* saved in .*step-000003; .*--resume"
        ):
            train(broken)
    assert StoppedError.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    train(dataclasses.replace(broken, resume=True))
    same(broken.output, straight.output)


def test_a_full_disk_keeps_the_checkpoint_before(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = config(output=tmp_path / "straight")
    train(straight)
    broken = dataclasses.replace(straight, output=tmp_path / "broken")
    original = dcp.FileSystemWriter.write_data

    def full(writer: Any, plan: Any, planner: Any) -> Any:
        if "step-000004" in str(writer.path):
            (writer.path / "__0_0.distcp").write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(writer, plan, planner)

    with monkeypatch.context() as patch:
        patch.setattr(dcp.FileSystemWriter, "write_data", full)
        with pytest.raises(TrainingError, match=r"cannot write .*step-000004: No space left on device; .* --resume"):
            train(broken)
    assert [path.name for path in (broken.output / "checkpoints").iterdir()] == ["step-000002"]
    train(dataclasses.replace(broken, resume=True))
    same(broken.output, straight.output)


def test_a_full_disk_is_told_where_the_writer_complains_of_something_else(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confused(writer: Any, plan: Any, planner: Any) -> Any:
        raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", confused)
    with pytest.raises(TrainingError, match="step-000002: unexpected pos 704 vs 598; the checkpoints before it"):
        train(config())
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=4096))
    with pytest.raises(TrainingError, match="step-000002: the disk is full; the checkpoints before it are whole"):
        train(config(resume=True))


NO_ROOM = """
import errno, os, openvla.files
def publish(place, target): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
openvla.files.publish = publish
"""
REFUSED = "def init(**settings): raise RuntimeError('no account')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("sitecustomize", NO_ROOM, "step-000002: No space left on device; the checkpoints before it are whole"),
        ("wandb", REFUSED, "wandb cannot start (no account)"),
    ],
    ids=["checkpoint", "sink"],
)
def test_what_the_first_process_cannot_write_ends_all_with_one_sentence(
    config: Make, launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str, sentence: str
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{module}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    run = config(sinks="wandb" if module == "wandb" else "none")
    for code, said in launch(run, run):
        assert (code, sentence in said, "Traceback" in said) == (2, True, False), said


def test_what_a_killed_process_began_is_removed(config: Make) -> None:
    train(config(steps=2))
    shutil.rmtree(config().output / "final")
    begun = config().output / "checkpoints" / ".step-000004.tmp"
    begun.mkdir()
    (begun / "half").write_bytes(b"x")
    train(config(steps=2, resume=True))
    assert [path.name for path in (config().output / "checkpoints").iterdir()] == ["step-000002"]
