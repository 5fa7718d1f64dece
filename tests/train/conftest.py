from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openvla.train.config import TrainConfig


@pytest.fixture
def config(toy_data: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of a model of milliseconds on the toy data, with changes."""

    def make(**changes: object) -> TrainConfig:
        values: dict[str, object] = {
            "data": toy_data,
            "output": tmp_path / "run",
            "checkpoint": "preset:micro",
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "device": "cpu",
            "hold_out": 6,
            "validate_every": 3,
            "save_every": 2,
            "log_every": 1,
        }
        return TrainConfig(**(values | changes))  # pyright: ignore[reportArgumentType]

    return make


PROGRAM = "import sys; from openvla.cli.main import main; sys.exit(main(sys.argv[1:]))"

Launch = Callable[..., list[tuple[int, str]]]


def command(run: TrainConfig) -> list[str]:
    """The command line of a run, in a Python of its own."""
    words = ["finetune"]
    for field in dataclasses.fields(run):
        value = getattr(run, field.name)
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value not in (None, ()):
            words += [flag, str(value)]
    return [sys.executable, "-c", PROGRAM, *words]


@pytest.fixture
def command_line() -> Callable[[TrainConfig], list[str]]:
    """`command`, for tests, which cannot import this file."""
    return command


@pytest.fixture
def launch() -> Launch:
    """Start the processes of a run as torchrun does; returns exit code and standard error of each, by rank.

    size: processes that are promised; configs: of those that start.
    """

    def start(*configs: TrainConfig, size: int | None = None) -> list[tuple[int, str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size or len(configs))}
        place |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        started = [
            subprocess.Popen(
                command(config),
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for rank, config in enumerate(configs)
        ]
        said = [process.communicate(timeout=120)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]

    return start
