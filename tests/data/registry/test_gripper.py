from __future__ import annotations

from pathlib import Path

import numpy as np

from openvla.data.registry.gripper import absolute_gripper, binarize_gripper


def slow_binarize(values: np.ndarray) -> list[float]:
    carry = float(values[-1]) if len(values) else 0.0
    result: list[float] = []
    for value in values[::-1].tolist():
        carry = 1.0 if value > np.float32(0.95) else 0.0 if value < np.float32(0.05) else carry
        result.append(carry)
    return result[::-1]


def test_it_is_the_published_function(golden: Path) -> None:
    with np.load(golden / "oxe_transforms/extra/primitives.npz") as cases:
        names = [name for name in cases if name.startswith("binarize/in/")]
        assert len(names) == 8
        for name in names:
            np.testing.assert_array_equal(binarize_gripper(cases[name]), cases[name.replace("/in/", "/out/")])


def test_it_is_a_slow_reference_on_random_commands() -> None:
    random = np.random.default_rng(0)
    for steps in (0, 1, 2, 17, 400):
        values = random.choice([0.0, 0.05, 0.3, 0.6, 0.95, 1.0], steps).astype(np.float32)
        assert binarize_gripper(values).tolist() == slow_binarize(values)


def test_a_tail_in_between_keeps_the_last_raw_value() -> None:
    assert binarize_gripper(np.float32([0, 0, 0.5, 1, 1, 0.75, 0.5])).tolist() == [0, 0, 1, 1, 1, 0.5, 0.5]


def test_nan_and_infinity_are_not_hidden() -> None:
    assert np.isnan(binarize_gripper(np.float32([0, 0.5, np.nan, 1]))).tolist() == [False, True, True, False]
    assert binarize_gripper(np.float32([0, np.inf, 1])).tolist() == [0, np.inf, 1]


def slow_absolute(moves: np.ndarray) -> list[float]:
    signs = [1 if move < -np.float32(0.1) else -1 if move > np.float32(0.1) else 0 for move in moves]
    carry = next((-sign for sign in signs if sign), 1)
    result: list[float] = []
    for sign in signs:
        carry = sign or carry
        result.append(carry / 2 + 0.5)
    return result


def test_a_position_from_motion_is_the_published_function(golden: Path) -> None:
    with np.load(golden / "oxe_transforms/extra/primitives.npz") as cases:
        names = [name for name in cases if name.startswith("rel2abs/in/")]
        assert len(names) == 8
        for name in names:
            np.testing.assert_array_equal(absolute_gripper(cases[name]), cases[name.replace("/in/", "/out/")])


def test_a_position_from_motion_is_a_slow_reference() -> None:
    random = np.random.default_rng(0)
    for steps in (0, 1, 2, 17, 400):
        for still in (0.5, 0.95, 1.0):
            moves = random.choice(np.float32([-1, -0.1, 0, 0.05, 0.1, 0.5]), steps)
            moves = np.where(random.random(steps) < still, np.float32(0), moves)
            assert absolute_gripper(moves).tolist() == slow_absolute(moves)


def test_a_gripper_that_never_moves_is_open() -> None:
    assert absolute_gripper(np.float32([0, 0.1, -0.1])).tolist() == [1, 1, 1]


def test_a_lost_motion_is_not_hidden() -> None:
    assert np.isnan(absolute_gripper(np.float32([1, np.nan, 0]))).tolist() == [False, True, False]
