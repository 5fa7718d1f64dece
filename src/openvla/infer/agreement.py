"""How much a precision changes what a policy does: the same observations, two policies, their answers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from openvla.data.rlds import read_episodes
from openvla.errors import InputError
from openvla.spec import Observation, Policy


@dataclass(frozen=True)
class Agreement:
    """tokens: share of equal tokens. bins: mean distance of tokens, in bins. action: mean |difference| of values.

    observations: how many were compared.
    """

    tokens: float
    bins: float
    action: float
    observations: int


def compare(reference: Policy, other: Policy, observations: Sequence[Observation]) -> Agreement:
    """Both policies' answers to every observation. Raises InputError without observations, or without tokens."""
    if not observations:
        raise InputError("there are no observations to compare two policies on; give at least 1")
    pairs = [(reference.act(each), other.act(each)) for each in observations]
    if any(first.tokens is None or second.tokens is None for first, second in pairs):
        raise InputError("a policy whose answers have no tokens cannot be compared by tokens; compare its values")
    distance = np.abs(np.stack([np.asarray(first.tokens) - np.asarray(second.tokens) for first, second in pairs]))
    values = np.abs(np.stack([first.values - second.values for first, second in pairs]))
    return Agreement(float((distance == 0).mean()), float(distance.mean()), float(values.mean()), len(pairs))


def stored_observations(directory: str | Path, count: int) -> list[Observation]:
    """Up to `count` observations of an RLDS data set, evenly spread over its steps; from the first camera.

    Steps without an instruction are left out. Raises DataError for a data set that cannot be read.
    """
    steps = sum(len(episode) for episode in read_episodes(directory, "all"))
    return list(islice(_observations(directory, max(1, steps // max(1, count))), count))


def _observations(directory: str | Path, stride: int) -> Iterator[Observation]:
    """Every `stride`-th step, counted over all episodes."""
    passed = 0
    for episode in read_episodes(directory, "all"):
        text = episode.steps.get("language_instruction", episode.metadata.get("language_instruction"))
        for step in range(-passed % stride, len(episode), stride):
            words = "" if text is None else str(text if isinstance(text, str) else text[step])
            if words.strip():
                yield Observation(episode.image(episode.image_keys[0], step), words)
        passed += len(episode)
