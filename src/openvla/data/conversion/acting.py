"""Which numbers of an episode are its action: those called `action`, or what a data set's record makes of raw ones.

A fix judges the action that a policy would be trained on, but it changes the raw numbers that this is made of: a
cleaned copy is read with the same record as the data it was made from.

Shapes: T raw steps, N <= T rows after the record's transform, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvla.data.episode import Episode
from openvla.data.formats.source import ACTION
from openvla.data.lerobot.columns import instruction_key
from openvla.data.registry.columns import NAME, Changed, Joined, Part, Steps, take
from openvla.data.registry.record import DataRecord
from openvla.data.standardize import standardize
from openvla.errors import DataError


class Place(NamedTuple):
    """One column of a raw array; column 0 of a one-dimensional one is the array itself."""

    name: str
    column: int


class Rows(NamedTuple):
    """action (N, A), state (N, P), words of N rows, and the raw step (N,) that each of them came from."""

    action: NDArray[Any]
    state: NDArray[Any]
    words: Sequence[str]
    step: NDArray[np.int64]


@dataclass(frozen=True)
class Acting:
    """What the action of an episode is. record: None where it is called `action`, and the words as formats do."""

    record: DataRecord | None = None

    def rows(self, episode: Episode) -> Rows:
        """What a policy would be trained on. Raises DataError where there is no such thing."""
        if self.record is None:
            action = plain_action(episode)
            return Rows(action, np.empty((len(action), 0)), instructions(episode), np.arange(len(action)))
        try:
            made = standardize(self.record, episode.steps)
        except DataError as error:
            raise DataError(f"{episode.source}: {error}") from error
        return Rows(made["action"], made["proprio"], made["language_instruction"].tolist(), made["step"])

    def words(self, episode: Episode) -> Sequence[str]:
        """What a policy would be told, row by row; data need no action to say something."""
        return instructions(episode) if self.record is None else self.rows(episode).words

    def words_key(self, episode: Episode) -> str | None:
        """The raw name of the instruction; None where the episode has none."""
        if self.record is None:
            return instruction_key(episode.features.steps)
        return self.record.language if self.record.language in episode.steps else None

    def motion(self, dim: int) -> NDArray[np.bool_]:
        """Which dimensions (A,) are motions, which add up, rather than positions to reach."""
        if self.record is None:
            return np.arange(dim) < dim - 1
        return ~np.asarray(self.record.absolute)

    def places(self, episode: Episode) -> list[Place | None]:
        """Where each action dimension (A,) lies among the raw numbers; None for what is computed in another way.

        The episode must be one that `rows` takes.
        """
        if self.record is None:
            return [Place(ACTION, column) for column in range(plain_action(episode).shape[1])]
        steps = self.record.before(episode.steps)
        found = [place for part in self.record.columns for place in _places(part, steps)]
        if len(found) != self.record.action.dim:
            return [None] * self.record.action.dim
        return [place if place and place.name in episode.steps else None for place in found]


def plain_action(episode: Episode) -> NDArray[Any]:
    """`action` (T, A). Raises DataError where there is no such thing."""
    action = episode.steps.get(ACTION)
    if action is None or action.ndim != 2 or action.dtype.kind not in "iuf" or not action.shape[1]:
        held = "none" if action is None else f"shape {action.shape}"
        raise DataError(
            f"{episode.source} has no action of one row per step ({held}); name the record that says what the action "
            "is with --dataset"
        )
    return action


def instructions(episode: Episode) -> list[str]:
    """The words of every step; empty ones where the episode has none."""
    key = instruction_key(episode.features.steps)
    if key is None:
        return [""] * len(episode)
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in episode.steps[key]]


def column(values: NDArray[Any], place: Place) -> NDArray[Any]:
    """The numbers (T,) at `place` in its array, as a view."""
    return values if values.ndim == 1 else values[:, place.column]


def _places(part: Part, steps: Steps) -> list[Place | None]:
    """One for each column of `part`."""
    if isinstance(part, Joined):
        return [place for each in part.parts for place in _places(each, steps)]
    width = take(steps, part).shape[1]
    if isinstance(part, Changed):
        inner = _places(part.part, steps)
        return inner if len(inner) == width else [None] * width
    match = NAME.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        return [None] * width
    key = match["key"]
    width = 1 if steps[key].ndim == 1 else steps[key].shape[1]
    start, stop = (None if match[end] is None else int(match[end]) for end in ("start", "stop"))
    return [Place(key, number) for number in range(width)[slice(start, stop)]]
