from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openvla.data.episode import build_episode
from openvla.data.rlds import write_episodes
from openvla.train.config import TrainConfig
from openvla.train.loop import train
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]

MY_FILE = """
from openvla.data.registry.columns import clipped, inverted
from openvla.data.registry.record import DataRecord, end_effector

MY_DATASET = DataRecord(
    images={"primary": "observation|front"},
    columns=("action|motion", inverted(clipped("action|grip"))),
    proprio=("observation|joints", None),
    language="task",
    action=end_effector(control_hz=10),
)
"""


@pytest.fixture
def my_data(tmp_path: Path) -> Path:
    """Four episodes under names of one's own, with the file that explains them beside."""
    random = np.random.default_rng(0)
    (tmp_path / "mine.py").write_text(MY_FILE)

    def episode(number: int):
        return build_episode(
            {
                "observation|front": random.integers(0, 255, (6, 32, 40, 3), dtype=np.uint8),
                "observation|joints": random.normal(size=(6, 5)).astype(np.float32),
                "action|motion": random.normal(size=(6, 6)).astype(np.float32),
                "action|grip": np.linspace(-1, 1, 6, dtype=np.float32),
                "task": [f"open drawer {number}"] * 6,
            }
        )

    return write_episodes(tmp_path / "data", map(episode, range(4)), name="mine")


def test_one_record_in_a_file_of_ones_own_is_enough_to_train(my_data: Path, tmp_path: Path, config: Make) -> None:
    run = config(data=my_data, dataset=f"{tmp_path}/mine.py:MY_DATASET", hold_out=0, steps=2)
    train(run)
    statistics = starting_point(config(checkpoint=str(run.output / "final"))).codec.statistics["MY_DATASET"]
    assert (statistics.num_transitions, statistics.action.dim) == (24, 7)
    assert statistics.action.mean[6] == pytest.approx(1 - (0.2 + 0.6 + 1) / 6)


def test_data_sets_of_ones_own_mix(my_data: Path, tmp_path: Path, config: Make) -> None:
    (tmp_path / "other.py").write_text(MY_FILE.replace("MY_DATASET", "OTHER"))
    for name in ("MY_DATASET", "OTHER"):
        shutil.copytree(my_data, tmp_path / "both" / name)
    mixture = f"{tmp_path}/mine.py:MY_DATASET=1.0,{tmp_path}/other.py:OTHER=0.5"
    run = config(data=tmp_path / "both", mixture=mixture, hold_out=0, steps=2)
    train(run)
    codec = starting_point(config(checkpoint=str(run.output / "final"))).codec
    assert set(codec.statistics) == {"MY_DATASET", "OTHER"}


def test_a_fresh_model_acts_as_its_mixture_does(config: Make) -> None:
    action = starting_point(config(mixture="bridge_orig=1.0")).codec.action
    assert action is not None
    assert action.dim == 7
