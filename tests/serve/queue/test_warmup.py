from __future__ import annotations

import numpy as np
import pytest
from serving import IMAGE, Bright

from openvla.serve.queue import warmup
from openvla.serve.queue.batching import BatchStepper
from openvla.serve.queue.pace import Pace
from openvla.serve.queue.warmup import sizes, warm_up
from openvla.spec import Observation

GRAY = Observation(IMAGE, "wait")


def test_every_size_of_batch_runs_before_anybody_asks() -> None:
    policy, pace = Bright(), Pace()
    warm_up(BatchStepper(policy, 6), GRAY, pace)
    assert policy.batches == [1, 1, 2, 2, 4, 4, 6, 6, 3, 5]
    assert pace.seconds(6) > 0


def test_a_slow_policy_runs_only_the_sizes_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "OTHER_SIZES_S", 0.01)
    policy = Bright(0.02)
    warm_up(BatchStepper(policy, 6), GRAY, Pace())
    assert policy.batches == [1, 1, 2, 2, 4, 4, 6, 6]


def test_a_policy_that_fails_is_not_warm() -> None:
    with pytest.raises(ArithmeticError):
        warm_up(BatchStepper(Bright(), 2), Observation(IMAGE, "fail"), Pace())


@pytest.mark.parametrize(("capacity", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_sizes_double_up_to_the_capacity(capacity: int, expected: list[int]) -> None:
    assert sizes(capacity) == expected
    assert np.all(np.diff(sizes(capacity)) > 0)
