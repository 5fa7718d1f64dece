from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openvla.data.episode import build_episode
from openvla.data.rlds import write_episodes
from openvla.spec import Action, ActionSpec, Observation
from openvla.train.config import TrainConfig

SPEC = ActionSpec(("x", "gripper"), ("m", "1"), np.full(2, -1.0), np.ones(2), 5.0, "open_is_high")


class FakePolicy:
    """Answers every observation with the mean brightness; remembers how it was loaded."""

    spec = SPEC

    def __init__(self, source: str, **settings: Any) -> None:
        self.loaded = {"source": source, **settings}

    def act(self, observation: Observation) -> Action:
        brightness = float(observation.image.mean())
        return Action(np.array([[brightness, 1.0]]), np.array([[31999, 31744]]), np.array([[0.5, 1.0]]), {"total": 2.0})

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        return [self.act(observation) for observation in observations]

    def reset(self) -> None:
        pass


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[FakePolicy]:
    """Every policy that `load_policy` hands out, in order; no weights are loaded."""
    loaded: list[FakePolicy] = []

    def load_policy(source: str, **settings: Any) -> FakePolicy:
        loaded.append(FakePolicy(source, **settings))
        return loaded[-1]

    module = ModuleType("openvla.infer.policy")
    module.load_policy = load_policy
    monkeypatch.setitem(sys.modules, "openvla.infer.policy", module)
    return loaded


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Every configuration that was trained; nothing is trained."""
    configs: list[TrainConfig] = []

    def train(config: TrainConfig, *, quiet: bool = False) -> SimpleNamespace:
        configs.append(config)
        return SimpleNamespace(final=Path("runs/x/final"), metrics={"train/loss": 0.25})

    module = ModuleType("openvla.train.loop")
    module.train = train
    monkeypatch.setitem(sys.modules, "openvla.train.loop", module)
    return configs


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two episodes of three steps, recorded as simulators do."""
    episodes = [
        build_episode(
            {
                "observation|image": np.full((3, 16, 24, 3), 40 * n, np.uint8),
                "observation|proprio": np.full((3, 4), n, np.float32),
                "action": np.linspace(-1, n, 12, dtype=np.float32).reshape(3, 4),
                "language_instruction": [f"do {n}"] * 3,
            },
            {"seed": n},
        )
        for n in range(2)
    ]
    return write_episodes(tmp_path / "recorded", episodes, name="metaworld")
