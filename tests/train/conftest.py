from __future__ import annotations

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
