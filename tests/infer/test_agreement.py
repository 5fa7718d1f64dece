from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.infer.agreement import compare, stored_observations
from openvla.infer.policy import LocalPolicy
from openvla.model.checkpoint import Checkpoint
from openvla.spec import Action, Observation


class Constant:
    spec = None

    def __init__(self, *tokens: int) -> None:
        self.tokens = np.array([tokens])

    def act(self, observation: Observation) -> Action:
        return Action(self.tokens / 10, self.tokens)

    def act_batch(self, observations: list[Observation]) -> list[Action]:
        return [self.act(each) for each in observations]

    def reset(self) -> None: ...


def test_equal_tokens_their_distance_and_that_of_values_are_counted(observations: list[Observation]) -> None:
    found = compare(Constant(1, 2, 3, 4), Constant(1, 2, 5, 4), observations)
    assert (found.tokens, found.bins, found.observations) == (0.75, 0.5, 3)
    assert found.action == pytest.approx(0.05)


def test_a_policy_agrees_with_itself(checkpoint: Checkpoint, observations: list[Observation]) -> None:
    found = compare(LocalPolicy(checkpoint), LocalPolicy(checkpoint), observations)
    assert (found.tokens, found.action) == (1.0, 0.0)


def test_observations_are_spread_over_a_data_set(toy_data: Path) -> None:
    found = stored_observations(toy_data, 12)
    assert len(found) == 12
    red = [int(each.image[..., 0].mean()) > int(each.image[..., 2].mean()) for each in found]
    assert red == [True, False] * 6
    assert len(stored_observations(toy_data, 1000)) == 96


def test_nothing_to_compare_is_said(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="there are no observations to compare two policies on"):
        compare(LocalPolicy(checkpoint), LocalPolicy(checkpoint), [])
