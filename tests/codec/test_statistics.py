from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openvla.codec.statistics import DatasetStatistics, FieldStatistics, compute, normalize, select, unnormalize
from openvla.errors import DataError, InputError, UsageError

BRIDGE_Q01 = [
    -0.02872725307941437,
    -0.04170349963009357,
    -0.026093858778476715,
    -0.08092105075716972,
    -0.09288699507713317,
    -0.20718276381492615,
    0.0,
]
BRIDGE_Q99 = [
    0.028309678435325586,
    0.040855254605412394,
    0.040161586627364146,
    0.08192047759890528,
    0.07792850524187081,
    0.20382574498653397,
    1.0,
]
GRIPPER_RAW = [True] * 6 + [False]


@pytest.fixture
def bridge() -> FieldStatistics:
    """The q01 and q99 that published checkpoints carry for bridge_orig; the other fields do not enter."""
    q01, q99 = np.array(BRIDGE_Q01), np.array(BRIDGE_Q99)
    return FieldStatistics(q01, q99, q99, q01, q01, q99, np.array(GRIPPER_RAW))


@pytest.fixture
def taco(golden: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    folder = golden / "oxe_statistics"
    with np.load(folder / "taco_play.npz") as arrays:
        return dict(arrays), json.loads((folder / "taco_play_statistics.json").read_text())


def test_statistics_are_those_of_the_published_code_bit_for_bit(taco: Any) -> None:
    arrays, published = taco
    computed = compute((arrays[f"t{i}/std/action"], arrays[f"t{i}/std/proprio"]) for i in range(5))
    assert computed.to_dict() == published


def test_normalised_trajectories_are_those_of_the_published_code(taco: Any) -> None:
    arrays, published = taco
    published["action"]["mask"] = GRIPPER_RAW
    statistics = DatasetStatistics.from_dict(published)
    assert statistics.proprio is not None
    for i in range(5):
        for field, values in (("action", statistics.action), ("proprio", statistics.proprio)):
            result = normalize(arrays[f"t{i}/std/{field}"], values)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, arrays[f"t{i}/out/{field}"])


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 2), (300, 14, 9)])
def test_each_number_is_that_of_a_slow_reference(shape: tuple[int, int, int]) -> None:
    steps, action_dim, proprio_dim = shape
    random = np.random.default_rng(0)
    action = random.normal(size=(steps, action_dim)).astype(np.float32)
    proprio = random.normal(size=(steps, proprio_dim)).astype(np.float32)
    result = compute([(action[: steps // 2], proprio[: steps // 2]), (action[steps // 2 :], proprio[steps // 2 :])])
    assert (result.num_transitions, result.num_trajectories) == (steps, 2)
    assert result.proprio is not None
    for rows, field in ((action, result.action), (proprio, result.proprio)):
        for column in range(rows.shape[1]):
            ordered = sorted(rows[:, column].tolist())
            at = 0.01 * (steps - 1)
            low = ordered[int(at)] + (at - int(at)) * (ordered[min(int(at) + 1, steps - 1)] - ordered[int(at)])
            mean = sum(ordered) / steps
            deviation = (sum((x - mean) ** 2 for x in ordered) / steps) ** 0.5
            assert field.q01[column] == pytest.approx(low, abs=1e-6)
            assert field.mean[column] == pytest.approx(mean, abs=1e-6)
            assert field.std[column] == pytest.approx(deviation, abs=1e-6)
            assert (field.min[column], field.max[column]) == (ordered[0], ordered[-1])


def test_without_proprio_its_statistics_are_zeros_of_the_actions_shape() -> None:
    result = compute([(np.ones((3, 4)), None)])
    assert result.proprio is not None
    assert result.proprio.to_dict() == dict.fromkeys(("mean", "std", "max", "min", "q01", "q99"), [0.0] * 4)


def test_the_mask_is_carried_along() -> None:
    result = compute([(np.eye(3), None)], mask=[True, True, False])
    assert result.to_dict()["action"]["mask"] == [True, True, False]


def test_unnormalising_undoes_normalising_between_q01_and_q99(bridge: FieldStatistics) -> None:
    random = np.random.default_rng(1)
    values = bridge.q01 + random.random((2, 50, 7)) * (bridge.q99 - bridge.q01)
    np.testing.assert_allclose(unnormalize(normalize(values, bridge), bridge), values, atol=2e-7)


def test_values_outside_q01_and_q99_saturate(bridge: FieldStatistics) -> None:
    assert normalize(bridge.q99 + 1, bridge)[:6].tolist() == [1] * 6
    assert normalize(bridge.q01 - 1, bridge)[:6].tolist() == [-1] * 6


def test_masked_dimensions_are_left_alone_both_ways(bridge: FieldStatistics) -> None:
    values = np.full(7, 0.625)
    assert normalize(values, bridge)[6] == 0.625
    assert unnormalize(values, bridge)[6] == 0.625


def test_a_dimension_that_never_moved_becomes_zero_even_where_masked() -> None:
    still = compute([(np.full((4, 2), 0.5), None)], mask=[True, False]).action
    assert normalize([[0.5, 0.5]], still).tolist() == [[0.0, 0.0]]
    assert unnormalize([[0.0, 0.0]], still).tolist() == [[0.5, 0.0]]


def test_the_published_inference_formula_has_no_epsilon(bridge: FieldStatistics) -> None:
    result = unnormalize(np.full(7, -1.0), bridge)
    assert result.dtype == np.float64
    assert result[:6].tolist() == BRIDGE_Q01[:6]
    assert unnormalize(np.full(7, 1.0), bridge)[:6] == pytest.approx(BRIDGE_Q99[:6], abs=1e-16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_an_action_that_is_not_finite_is_refused_with_trajectory_and_step(bad: float) -> None:
    action = np.zeros((5, 2))
    action[3, 1] = bad
    with pytest.raises(DataError, match=r"trajectory 1: action at step 3 is \[0.0, (nan|inf)\]: not finite"):
        compute([(np.zeros((2, 2)), None), (action, None)])


@pytest.mark.parametrize(
    ("trajectories", "match"),
    [
        ([], "at least one step; got 0 trajectories"),
        ([(np.zeros((0, 2)), None)], "at least one step; got 1 trajectories"),
        ([(np.zeros(3), None)], r"trajectory 0: action has shape \(3,\)"),
        ([(np.zeros((2, 3)), None), (np.zeros((2, 4)), None)], "trajectory 1: action has 4 dimensions, .* have 3"),
        ([(np.zeros((2, 3)), np.zeros((3, 1)))], "2 actions but 3 proprio rows"),
        ([(np.zeros((2, 3)), np.zeros((2, 1))), (np.zeros((2, 3)), None)], "proprio has 3 dimensions, .* have 1"),
    ],
)
def test_trajectories_that_do_not_fit_together_are_refused(trajectories: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        compute(trajectories)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"mask has shape \(3,\), the actions have 2"):
        compute([(np.zeros((2, 2)), None)], mask=[True] * 3)


@pytest.mark.parametrize("inverse", [normalize, unnormalize])
def test_values_of_another_dimension_or_not_finite_are_refused(bridge: FieldStatistics, inverse: Any) -> None:
    with pytest.raises(InputError, match=r"shape \(2, 6\) do not fit statistics of 7 dimensions"):
        inverse(np.zeros((2, 6)), bridge)
    with pytest.raises(InputError, match=r"NaN or infinity: \[nan\]"):
        inverse(np.array([0, 0, 0, np.nan, 0, 0, 0]), bridge)


def test_one_set_of_statistics_needs_no_name_and_several_do() -> None:
    one = compute([(np.eye(2), None)])
    assert select({"a": one}, None) is one
    assert select({"a": one, "b": one}, "b") is one
    with pytest.raises(UsageError, match="2 sets of statistics, so one must be named; known are a, b"):
        select({"b": one, "a": one}, None)
    with pytest.raises(UsageError, match="unknown statistics 'c'; known are a, b"):
        select({"b": one, "a": one}, "c")
    with pytest.raises(UsageError, match="known are none"):
        select({}, "c")
