"""Rotations as the published pipeline turns them: a quaternion to three angles, without normalising it.

R = Rz(yaw) Ry(pitch) Rx(roll), the "xyz" (extrinsic) convention of other libraries, which agree for unit quaternions.
Where pitch is a right angle, roll and yaw turn about the same axis: yaw is 0 there. Close to it the result depends on
rounding, and so on tiny margins: they are kept. What is longer than a unit quaternion by so much that the sine of its
pitch passes 1 counts as a right angle; the published function has no number for it.

Shapes: N rotations.
Source: the Euler angles of TensorFlow Graphics, in float32, or in float64 where that is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOCKED = 1e-6
"""Gimbal lock: |sin(pitch)| nearer to 1 than this."""


def euler_from_quaternion(quaternions: NDArray[Any]) -> NDArray[np.float32]:
    """(N, 4) in the order x, y, z, w -> (N, 3) roll, pitch, yaw in rad, each in [-pi, pi]."""
    kind = np.float64 if np.asarray(quaternions).dtype == np.float64 else np.float32
    x, y, z, w = np.asarray(quaternions, kind).T
    margin = kind(2 * np.finfo(kind).eps)
    shrink = 1 - margin  # keeps the entries of a rotation matrix within [-1, 1] in spite of rounding
    x2, y2, z2 = (2 * x * shrink, 2 * y * shrink, 2 * z * shrink)
    r00 = (1 - (y2 * y + z2 * z)) * shrink
    r01 = (y2 * x - z2 * w) * shrink
    r02 = (z2 * x + y2 * w) * shrink
    r10 = (y2 * x + z2 * w) * shrink
    r20 = np.clip((z2 * x - y2 * w) * shrink, -1, 1)
    r21 = (z2 * y + x2 * w) * shrink
    r22 = (1 - (x2 * x + y2 * y)) * shrink
    free = (
        np.arctan2(r21, r22 + _sign(r22) * margin),
        -np.arcsin(r20),
        np.arctan2(r10, r00 + _sign(r00) * margin),
    )
    down = -_sign(r20)
    locked = np.arctan2(r01 * down, (r02 + _sign(r02) * margin) * down), down * kind(np.pi / 2), np.zeros_like(x)
    is_locked = 1 - np.abs(r20) < kind(LOCKED)
    return np.where(is_locked[:, None], np.stack(locked, axis=1), np.stack(free, axis=1)).astype(np.float32)


def _sign(entry: NDArray[Any]) -> NDArray[Any]:
    """1 or -1, of either zero 1."""
    return np.where(entry < 0, -1, 1).astype(entry.dtype)
