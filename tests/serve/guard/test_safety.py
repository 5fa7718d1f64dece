from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openvla.errors import InputError, UsageError
from openvla.serve.guard.refusals import Refusal
from openvla.serve.guard.safety import Flags, Guard, read_rules, rules_of
from openvla.spec import Action, ActionSpec

SPEC = ActionSpec(("x", "y", "gripper"), ("m", "m", "1"), np.full(3, -1.0), np.ones(3), 10.0, "open_is_low")
RULES = rules_of(SPEC)


def act(*rows: list[float], confidence: float = 1.0) -> Action:
    return Action(np.array(rows), confidence=np.full((len(rows), 3), confidence))


def test_an_action_within_the_rules_passes_unchanged() -> None:
    action, flags = Guard(RULES, SPEC.names).apply(act([0.1, -0.2, 1.0], [0.0, 1.0, -1.0]), "arm")
    assert action.values.tolist() == [[0.1, -0.2, 1.0], [0.0, 1.0, -1.0]]
    assert not flags
    assert flags == Flags()


def test_a_value_out_of_range_is_clipped_and_named() -> None:
    action, flags = Guard(RULES, SPEC.names).apply(act([1.5, 0.0, -3.0]), "arm")
    assert action.values.tolist() == [[1.0, 0.0, -1.0]]
    assert flags.to_dict() == {"clipped": ["x", "gripper"], "slowed": [], "held": None}


def test_a_sudden_change_is_slowed_within_a_chunk_and_between_chunks() -> None:
    guard = Guard(replace(RULES, max_change=np.array([0.25, np.inf, np.inf])), SPEC.names)
    action, flags = guard.apply(act([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), "arm")
    assert action.values[:, 0].tolist() == [0.0, 0.25]
    assert flags.slowed == ("x",)
    assert guard.apply(act([1.0, 1.0, 1.0]), "arm")[0].values[0, 0] == 0.5
    assert guard.apply(act([1.0, 1.0, 1.0]), "other arm")[0].values[0, 0] == 1.0
    guard.forget("arm")
    assert guard.apply(act([1.0, 1.0, 1.0]), "arm")[0].values[0, 0] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_action_that_is_no_number_is_held_with_the_gripper_as_it_was(bad: float) -> None:
    guard = Guard(RULES, SPEC.names)
    guard.apply(act([0.3, 0.3, -1.0]), "arm")
    action, flags = guard.apply(act([0.5, bad, 1.0], [0.1, 0.1, 0.1]), "arm")
    assert action.values.tolist() == [[0.0, 0.0, -1.0]] * 2
    assert flags.held == "not_finite"


def test_what_cannot_even_be_held_is_refused() -> None:
    with pytest.raises(Refusal, match="the policy answered NaN, and nothing was sent before that could be held"):
        Guard(RULES, SPEC.names).apply(act([0.0, 0.0, math.nan]), "arm")


@pytest.mark.parametrize(("confidence", "held"), [(0.49, "low_confidence"), (0.5, None), (math.nan, "low_confidence")])
def test_an_unsure_action_is_held(confidence: float, held: str | None) -> None:
    guard = Guard(replace(RULES, min_confidence=0.5), SPEC.names)
    action, flags = guard.apply(act([0.5, 0.5, 0.5], confidence=confidence), "arm")
    assert flags.held == held
    assert action.values[0].tolist() == ([0.0, 0.0, 0.5] if held else [0.5, 0.5, 0.5])


def test_an_old_observation_is_refused_and_so_is_one_of_unknown_age() -> None:
    guard = Guard(replace(RULES, max_age_s=0.5), SPEC.names)
    guard.check_age(time.time() - 0.1)
    with pytest.raises(Refusal, match=r"the observation is 2\.\d+ s old, and this server takes at most 0\.5 s"):
        guard.check_age(time.time() - 2)
    with pytest.raises(Refusal, match=r"at most 0\.5 s; send 'captured_at'"):
        guard.check_age(None)
    Guard(RULES, SPEC.names).check_age(None)


def test_a_policy_of_another_shape_is_an_error() -> None:
    with pytest.raises(InputError, match=r"the policy answered values of shape \(1, 2\), not \(chunk, 3\)"):
        Guard(RULES, SPEC.names).apply(Action(np.zeros((1, 2))), "arm")


def test_a_file_sets_limits_per_dimension(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    file.write_text(json.dumps({"x": {"low": -0.5, "max_change": 0.1}, "y": {"hold": "last"}}))
    rules = read_rules(file, SPEC)
    assert rules.low.tolist() == [-0.5, -1.0, -1.0]
    assert rules.max_change.tolist() == [0.1, math.inf, math.inf]
    assert np.isnan(rules.hold).tolist() == [False, True, True]
    assert SPEC.low.tolist() == [-1.0] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list; write"),
        ('{"z": {}}', "unknown action dimension in .* 'z'"),
        ('{"x": 1}', "'x' is 1; write"),
        ('{"x": {"lo": 1}}', "unknown limit 'lo'; did you mean 'low'"),
        ('{"x": {"low": "a"}}', "x.low is 'a'; give a finite number"),
        ('{"x": {"low": NaN}}', "x.low is nan; give a finite number"),
        ('{"x": {"low": "last"}}', "x.low is 'last'; give a finite number"),
        ('{"x": {"low": 2}}', "every low must be below its high"),
        ('{"x": {"max_change": 0}}', "every max_change above 0"),
    ],
)
def test_a_wrong_file_of_limits_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "limits.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_rules(file, SPEC)
