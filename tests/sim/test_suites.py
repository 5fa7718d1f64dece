from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from openvla.errors import InputError, UsageError
from openvla.sim.metaworld import SPEC
from openvla.sim.suites import check_policy_spec, instructions
from openvla.sim.tasks import DEFAULT_TASKS, TASKS
from openvla.spec import conventional_spec


def test_by_default_the_ten_tasks_are_told_in_their_own_words():
    assert instructions("metaworld", None, {}) == {task: TASKS[task] for task in DEFAULT_TASKS}


def test_other_words_replace_a_tasks_own():
    told = instructions("metaworld", ("reach", "push"), {"push": "wave"})
    assert told == {"reach": TASKS["reach"], "push": "wave"}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("metaworlds", None, {}), UsageError, "unknown suite 'metaworlds'; did you mean 'metaworld'"),
        (("metaworld", ("push-bakc",), {}), UsageError, "unknown metaworld task 'push-bakc'; did you mean 'push-back'"),
        (("metaworld", ("reach",), {"pusch": "go"}), UsageError, "unknown metaworld task 'pusch'; did you mean 'push'"),
        (("metaworld", ("reach",), {"reach": " "}), InputError, "instruction for 'reach' is empty; say in words"),
        (("metaworld", (), {}), InputError, "no task is given; name some of metaworld"),
    ],
)
def test_unknown_names_and_empty_words_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        instructions(*settings)


def test_a_policy_of_the_same_robot_passes_and_so_do_unknown_conventions():
    check_policy_spec(SPEC, "metaworld", SPEC)
    check_policy_spec(dataclasses.replace(SPEC, gripper="none", control_hz=0.0), "metaworld", SPEC)
    check_policy_spec(conventional_spec(4), "metaworld", SPEC)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (conventional_spec(7), r"have 7 values \(x, y, z, roll, .*\), but metaworld takes 4 \(x, y, z, gripper\)"),
        (
            dataclasses.replace(SPEC, gripper="open_is_high"),
            "gripper is 'open_is_high', but metaworld has 'open_is_low'",
        ),
        (dataclasses.replace(SPEC, control_hz=5.0), "acts at 5 Hz, but metaworld takes 16 actions a second"),
    ],
)
def test_a_policy_of_another_robot_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        check_policy_spec(spec, "metaworld", SPEC)


def test_the_action_range_is_symmetric():
    np.testing.assert_array_equal(SPEC.low, -SPEC.high)
