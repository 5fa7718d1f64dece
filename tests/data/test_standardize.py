from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openvla.data.episode import demonstration_episode
from openvla.data.oxe import DATASETS, relabel_actions
from openvla.data.standardize import standardize
from openvla.errors import DataError, UsageError


@pytest.fixture
def bridge(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "oxe_transforms/bridge_orig.npz") as arrays:
        return dict(arrays)


def raw(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("in/"): array for name, array in arrays.items() if name.startswith("in/")}


@pytest.mark.parametrize("name", ["bridge_orig", "bridge_dataset"])
def test_bridge_is_what_the_published_code_makes_of_it(bridge: dict[str, np.ndarray], name: str) -> None:
    result = standardize(name, raw(bridge))
    for field in ("action", "proprio"):
        assert result[field].dtype == np.float32
        np.testing.assert_array_equal(result[field], bridge[f"out/{field}"])
    assert result["language_instruction"].tolist() == bridge["out/language_instruction"].tolist()


def test_each_row_knows_its_raw_step(bridge: dict[str, np.ndarray]) -> None:
    assert standardize("bridge_orig", raw(bridge))["step"].tolist() == list(range(1, 11))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_bridge_trajectory_too_short_to_move_is_empty(bridge: dict[str, np.ndarray], steps: int) -> None:
    result = standardize("bridge_orig", {name: array[:steps] for name, array in raw(bridge).items()})
    assert (result["action"].shape, result["proprio"].shape) == ((0, 7), (0, 8))


def test_metaworld_is_taken_as_recorded() -> None:
    actions, proprio = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    episode = demonstration_episode(frames, actions, proprio, "open it", task="door-open", seed=0)
    result = standardize("metaworld", episode.steps)
    np.testing.assert_array_equal(result["action"], actions)
    np.testing.assert_array_equal(result["proprio"], proprio)
    assert result["language_instruction"].tolist() == ["open it"] * 3
    assert result["step"].tolist() == [0, 1, 2]


def test_relabelled_motion_is_the_difference_of_states_and_keeps_the_gripper() -> None:
    state = np.cumsum(np.ones((4, 7)), axis=0) ** 2
    result = relabel_actions({"action": np.full((4, 7), 0.25), "observation|state": state, "other": np.arange(4)})
    assert result["action"][:, 0].tolist() == [3, 5, 7]
    assert result["action"][:, -1].tolist() == [0.25] * 3
    assert result["other"].tolist() == [0, 1, 2]


def test_instructions_stored_as_bytes_become_text(bridge: dict[str, np.ndarray]) -> None:
    steps: dict[str, Any] = raw(bridge)
    steps["language_instruction"] = np.array([b"put it down"] * 12, object)
    assert set(standardize("bridge_orig", steps)["language_instruction"]) == {"put it down"}


def test_every_record_describes_as_many_dimensions_as_it_masks() -> None:
    for record in DATASETS.values():
        assert len(record.mask) == record.action.dim
        assert "primary" in record.images


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'bridge_original'; did you mean 'bridge_orig'"):
        standardize("bridge_original", {})


def test_steps_of_another_data_set_are_refused(bridge: dict[str, np.ndarray]) -> None:
    steps = raw(bridge)
    with pytest.raises(DataError, match=r"not of 'metaworld': they lack 'observation\|proprio'; they have is_first"):
        standardize("metaworld", steps)
    steps["observation|proprio"] = np.zeros((12, 3))
    with pytest.raises(DataError, match=r"'metaworld' has 4 action dimensions, these steps have \(7,\)"):
        standardize("metaworld", steps)
    steps["observation|state"] = np.zeros(12)
    with pytest.raises(DataError, match=r"not of 'bridge_orig': .*; their shapes are"):
        standardize("bridge_orig", steps)
