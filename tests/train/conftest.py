from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openvla.data.episode import demonstration_episode
from openvla.data.rlds import write_episodes
from openvla.train.config import TrainConfig


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes in which the colour of the image tells the action: red right, blue left."""
    random = np.random.default_rng(0)

    def episode(number: int):
        right = number % 2 == 0
        images = random.integers(0, 40, (8, 28, 28, 3)).astype(np.uint8)
        images[..., 0 if right else 2] += 200
        actions = np.zeros((8, 4), np.float32)
        actions[:, 0] = 1.0 if right else -1.0
        actions[:, 1] = random.uniform(-1, 1, 8)
        return demonstration_episode(images, actions, np.zeros((8, 4)), "go", task="colour", seed=number)

    return write_episodes(tmp_path_factory.mktemp("toy") / "toy", map(episode, range(12)), name="toy")


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
