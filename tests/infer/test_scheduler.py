from __future__ import annotations

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.infer.policy import LocalPolicy
from openvla.infer.scheduler import Stepper
from openvla.model.checkpoint import Checkpoint
from openvla.spec import Action, Observation


@pytest.fixture
def policy(checkpoint: Checkpoint) -> LocalPolicy:
    return LocalPolicy(checkpoint, speculate=False)


def drain(stepper: Stepper, steps: int = 100) -> dict[object, Action | Exception]:
    return dict(answer for _ in range(steps) for answer in stepper.step())


def assert_as_alone(policy: LocalPolicy, observation: Observation, answer: object) -> None:
    assert isinstance(answer, Action)
    alone = policy.act(observation)
    assert np.array_equal(np.asarray(answer.tokens), np.asarray(alone.tokens))
    assert np.array_equal(answer.values, alone.values)


def test_those_who_arrive_together_get_what_each_gets_alone(
    policy: LocalPolicy, observations: list[Observation]
) -> None:
    stepper = policy.stepper(3)
    for key, observation in enumerate(observations):
        stepper.admit(key, observation)
    answers = drain(stepper, 21)
    assert len(answers) == 3
    for key, observation in enumerate(observations):
        assert_as_alone(policy, observation, answers[key])


@pytest.mark.parametrize("gap", [1, 3, 20])
def test_those_who_arrive_later_join_and_get_what_each_gets_alone(
    policy: LocalPolicy, observations: list[Observation], gap: int
) -> None:
    stepper, answers = policy.stepper(2), dict[object, object]()
    queue = [(number, observations[number % 3]) for number in range(7)]
    for step in range(400):
        if queue and step % gap == 0 and step // gap + 1 > 7 - len(queue) and len(answers) > 5 - len(queue):
            stepper.admit(*queue.pop(0))
        answers.update(stepper.step())
    assert len(answers) == 7
    for number in range(7):
        assert_as_alone(policy, observations[number % 3], answers[number])


def test_an_answer_takes_as_many_steps_as_further_tokens(policy: LocalPolicy, observations: list[Observation]) -> None:
    stepper = policy.stepper(1)
    stepper.admit("a", observations[0])
    assert [len(stepper.step()) for _ in range(21)] == [0] * 19 + [1, 0]


def test_timing_covers_waiting(policy: LocalPolicy, observations: list[Observation]) -> None:
    stepper = policy.stepper(1)
    stepper.admit("a", observations[0])
    answer = drain(stepper)["a"]
    assert isinstance(answer, Action)
    phases = dict(answer.timing_ms)
    assert list(phases) == ["preprocess", "vision", "prefill", "decode", "post", "total"]
    assert phases.pop("total") >= sum(phases.values())


def test_a_full_stepper_refuses_and_goes_on(policy: LocalPolicy, observations: list[Observation]) -> None:
    stepper = policy.stepper(1)
    stepper.admit("a", observations[0])
    with pytest.raises(InputError, match=r"all 1 places are taken; call step\(\) until one is free"):
        stepper.admit("b", observations[1])
    assert set(drain(stepper)) == {"a"}
    stepper.admit("b", observations[1])
    assert_as_alone(policy, observations[1], drain(stepper)["b"])


def test_who_would_find_no_place_waits_for_a_whole_batch(policy: LocalPolicy, observations: list[Observation]) -> None:
    stepper = policy.stepper(3)
    assert stepper.room(9) == 3
    stepper.admit("a", observations[0])
    assert stepper.room(9) == 2
    stepper.step()
    assert [stepper.room(waiting) for waiting in (1, 2, 3)] == [2, 2, 0]
    while not stepper.step():
        pass
    assert stepper.room(9) == 3


def test_what_cannot_be_read_comes_back_as_its_error_and_harms_nobody(
    policy: LocalPolicy, observations: list[Observation]
) -> None:
    stepper = policy.stepper(3)
    stepper.admit("good", observations[0])
    stepper.admit("long", Observation(observations[0].image, "go " * 600))
    answers = drain(stepper)
    assert isinstance(answers["long"], InputError)
    assert "the policy was loaded for at most 512" in str(answers["long"])
    assert_as_alone(policy, observations[0], answers["good"])


def test_a_failing_device_empties_the_stepper_which_then_goes_on(
    policy: LocalPolicy, observations: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper = policy.stepper(2)
    stepper.admit("a", observations[0])
    stepper.step()
    with monkeypatch.context() as broken:
        broken.setattr(stepper._engine, "extend", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        stepper.admit("b", observations[1])
        failed = dict(stepper.step())
    assert set(failed) == {"a", "b"}
    assert all(isinstance(error, RuntimeError) for error in failed.values())
    stepper.admit("c", observations[2])
    assert_as_alone(policy, observations[2], drain(stepper)["c"])


@pytest.mark.parametrize(("capacity", "message"), [(0, "the capacity is 0"), (65, "65 observations, .* at most 64")])
def test_a_capacity_that_cannot_be_is_refused(policy: LocalPolicy, capacity: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy.stepper(capacity)
