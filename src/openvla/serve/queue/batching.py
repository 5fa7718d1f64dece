"""What computes actions for many clients at once, as the server sees it.

A stepper takes observations at any time and gives actions back as they are finished. One that decodes continuously lets
a request join while others are half-way; `BatchStepper` makes the plain kind from any policy: what was admitted runs as
one batch.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, cast, runtime_checkable

from openvla.spec import Action, Observation, Policy


@runtime_checkable
class Stepper(Protocol):
    """Computes up to `capacity` actions together. Used by one thread only."""

    @property
    def capacity(self) -> int:
        """Most observations in progress together."""
        ...

    def room(self, waiting: int) -> int:
        """How many observations to admit now, where so many wait; more than these where it would take more."""
        ...

    def admit(self, key: Hashable, observation: Observation) -> None:
        """Take one observation, known by `key` until its action is out; never more than `capacity` at a time."""
        ...

    def step(self) -> list[tuple[Hashable, Action | Exception]]:
        """Work on all that is admitted; returns what is finished, which may be nothing yet."""
        ...


class BatchStepper:
    """`Stepper` over `Policy.act_batch`: every step finishes all that is admitted."""

    def __init__(self, policy: Policy, capacity: int) -> None:
        self._policy = policy
        self._admitted: list[tuple[Hashable, Observation]] = []
        self.capacity = capacity

    def room(self, waiting: int) -> int:
        """As many as there are places left in the next batch."""
        del waiting
        return self.capacity - len(self._admitted)

    def admit(self, key: Hashable, observation: Observation) -> None:
        """Put it into the next batch."""
        self._admitted.append((key, observation))

    def step(self) -> list[tuple[Hashable, Action | Exception]]:
        """One batch; where it fails, one by one, so that one bad observation spoils no other."""
        batch, self._admitted = self._admitted, []
        try:
            actions = self._policy.act_batch([observation for _, observation in batch])
            return [(key, action) for (key, _), action in zip(batch, actions, strict=True)]
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0][0], error)]
        return [(key, self._alone(observation)) for key, observation in batch]

    def _alone(self, observation: Observation) -> Action | Exception:
        try:
            return self._policy.act(observation)
        except Exception as error:
            return error


def make_stepper(policy: Policy, capacity: int) -> Stepper:
    """The policy's own stepper where it has one, else `BatchStepper`."""
    own = getattr(policy, "stepper", None)
    return cast("Stepper", own(capacity)) if callable(own) else BatchStepper(policy, capacity)
