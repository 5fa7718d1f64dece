from __future__ import annotations

import pytest

from openvla.errors import InputError
from openvla.sim.seeds import EVALUATION_SEED, evaluation_seeds, training_seeds


def test_training_and_evaluation_seeds_never_meet():
    last_training = training_seeds(EVALUATION_SEED - 10, 10)[-1]
    assert last_training < evaluation_seeds(0, 5)[0] == EVALUATION_SEED


@pytest.mark.parametrize(("seed", "episodes"), [(EVALUATION_SEED - 9, 10), (EVALUATION_SEED, 1), (-1, 3)])
def test_training_seeds_that_reach_evaluation_are_refused(seed, episodes):
    with pytest.raises(InputError, match=r"seeds from 1000000 are kept for evaluation, so start lower"):
        training_seeds(seed, episodes)


def test_a_negative_evaluation_seed_is_refused():
    with pytest.raises(InputError, match="evaluation seed -3 is negative; give a whole number from 0"):
        evaluation_seeds(-3, 5)
