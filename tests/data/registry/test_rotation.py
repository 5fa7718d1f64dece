from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.data.registry.rotation import euler_from_quaternion


def test_it_is_the_published_function(golden: Path) -> None:
    with np.load(golden / "oxe_transforms/extra/primitives.npz") as cases:
        result = euler_from_quaternion(cases["euler_from_quaternion/in"])
        np.testing.assert_allclose(result, cases["euler_from_quaternion/out"], rtol=0, atol=1e-5)
    assert result.dtype == np.float32


@pytest.mark.parametrize(("kind", "result"), [(np.float32, "single"), (np.float64, "double")])
def test_it_is_the_published_function_close_to_gimbal_lock(golden: Path, kind: type, result: str) -> None:
    with np.load(golden / "quaternions_near_gimbal_lock.npz") as cases:
        angles = euler_from_quaternion(cases["quaternions"].astype(kind))
        np.testing.assert_allclose(angles, cases[result], rtol=0, atol=2e-6)


def test_a_pitch_past_a_right_angle_is_a_right_angle() -> None:
    angles = euler_from_quaternion(np.array([[0, 0.75, 0, 0.75], [0, -0.75, 0, 0.75]], np.float32))
    np.testing.assert_allclose(angles, [[0, np.pi / 2, 0], [0, -np.pi / 2, 0]], atol=1e-6)


def test_single_turns_come_back_as_their_angle() -> None:
    angles = np.linspace(-3, 3, 13)
    for axis in range(3):
        turns = angles / 2 if axis != 1 else angles / 4  # pitch stays within a right angle
        quaternions = np.zeros((13, 4))
        quaternions[:, axis], quaternions[:, 3] = np.sin(turns), np.cos(turns)
        result = euler_from_quaternion(quaternions)
        np.testing.assert_allclose(result[:, axis], 2 * turns, atol=1e-6)
        assert np.abs(np.delete(result, axis, axis=1)).max() < 1e-6


def test_no_rotations_give_no_angles() -> None:
    assert euler_from_quaternion(np.empty((0, 4))).shape == (0, 3)
