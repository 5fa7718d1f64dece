"""Which seeds train and which evaluate: the two never meet, so no policy is tested on a start it has seen."""

from __future__ import annotations

from openvla.errors import InputError

EVALUATION_SEED = 1_000_000
"""Evaluation episodes take their seeds from here upwards, demonstrations below."""


def evaluation_seeds(seed: int, episodes: int) -> range:
    """The seeds of `episodes` evaluation episodes; `seed` shifts them. Raises InputError for a negative shift."""
    if seed < 0:
        raise InputError(f"evaluation seed {seed} is negative; give a whole number from 0")
    return range(EVALUATION_SEED + seed, EVALUATION_SEED + seed + episodes)


def training_seeds(seed: int, episodes: int) -> range:
    """The seeds that `episodes` demonstrations may use. Raises InputError where they reach those of evaluation."""
    if seed < 0 or seed + episodes > EVALUATION_SEED:
        raise InputError(
            f"demonstration seeds {seed} to {seed + episodes - 1} leave 0..{EVALUATION_SEED - 1}; "
            f"seeds from {EVALUATION_SEED} are kept for evaluation, so start lower"
        )
    return range(seed, seed + episodes)
