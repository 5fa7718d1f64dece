from __future__ import annotations

import pickle

import numpy as np
import pytest

from openvla.data.registry.columns import (
    binarized,
    clipped,
    euler,
    inverted,
    join,
    joined,
    ones,
    positions,
    take,
    unboxed,
    zeros,
)

STEPS = {
    "action": np.arange(12, dtype=np.float32).reshape(2, 6),
    "closed": np.array([True, False]),
    "a|b/c": np.array([0.25, 2.0], np.float32),
    "depth": np.ones((2, 3, 4, 1), np.uint16),
}


def test_columns_are_taken_as_python_slices_do() -> None:
    for text in ("[:3]", "[3:]", "[-1:]", "[1:3]", "[-4:-2]", "[:-1]", "[:]"):
        start, stop = (int(end) if end else None for end in text.strip("[]").split(":"))
        np.testing.assert_array_equal(take(STEPS, "action" + text), STEPS["action"][:, start:stop])
    assert take(STEPS, "a|b/c").tolist() == [[0.25], [2.0]]


def test_columns_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'action\[:7\]' takes columns of 'action', which has shape \(2, 6\)"):
        take(STEPS, "action[:7]")
    with pytest.raises(ValueError, match=r"'depth\[:1\]' takes columns of 'depth'"):
        take(STEPS, "depth[:1]")
    with pytest.raises(KeyError, match="actoin"):
        take(STEPS, "actoin[:7]")
    with pytest.raises(ValueError, match="'' names nothing; write a raw name"):
        take(STEPS, "")


def test_parts_combine() -> None:
    part = joined("action[:1]", inverted(clipped("a|b/c")), zeros(2), ones(1))
    assert take(STEPS, part).tolist() == [[0, 0.75, 0, 0, 1], [6, 0, 0, 0, 1]]
    assert join(STEPS, ["closed", "a|b/c"]).tolist() == [[1, 0.25], [0, 2]]


def test_integers_are_inverted_without_wrapping() -> None:
    assert take({"a": np.array([0, 1, 2], np.uint8)}, inverted("a")).ravel().tolist() == [1, 0, -1]


def test_grippers_quaternions_and_depth() -> None:
    motion = {"a": np.array([0, 0.5, 0, -1], np.float32), "q": np.array([[0, 0, 0, 1.0]] * 4)}
    assert take(motion, positions("a")).ravel().tolist() == [1, 0, 0, 1]
    assert take(motion, binarized("a")).ravel().tolist() == [0, 0, 0, 0]
    assert take(motion, euler("q")).shape == (4, 3)
    assert take(STEPS, unboxed("depth")).dtype == np.float32
    assert take(STEPS, unboxed("depth")).shape == (2, 3, 4)


def test_parts_are_values() -> None:
    part = inverted(clipped(joined("action[-1:]", zeros(1))))
    assert pickle.loads(pickle.dumps(part)) == part == inverted(clipped(joined("action[-1:]", zeros(1))))
    assert part != inverted("action")
