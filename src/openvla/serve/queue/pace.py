"""How long an action takes now, learned from those that were finished: what lets a server refuse before it is late."""

from __future__ import annotations

import math

SLOWER, FASTER = 0.5, 0.1
"""Weights of a new measurement: an estimate follows a slow-down at once, and trusts a speed-up only after a while."""

MARGIN = 1.6
"""Of the expected time: who is let in is answered in time also where the machine is busy with something else."""


class Pace:
    """Seconds from admission to action, by how many were in progress (in powers of two)."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, together: int, seconds: float) -> None:
        """One action, finished among `together` in progress, took `seconds`."""
        bucket = _bucket(together)
        known = self._seconds.get(bucket)
        weight = 1.0 if known is None else SLOWER if seconds > known else FASTER
        self._seconds[bucket] = (known or 0.0) + weight * (seconds - (known or 0.0))

    def seconds(self, together: int) -> float:
        """What an action takes among `together`; 0 before anything was learned.

        A number not seen yet takes the time of the nearest below, scaled up as if nothing were gained by batching.
        """
        bucket = _bucket(together)
        below = [known for known in self._seconds if known <= bucket]
        if below:
            return self._seconds[max(below)] * 2 ** (bucket - max(below))
        return min(self._seconds.values(), default=0.0)

    def wait(self, queued: int, in_progress: int, capacity: int) -> float:
        """Seconds until an observation that comes now has its action, with `queued` before it.

        It waits for those in progress, then for full rounds of those queued, then for its own round.
        """
        ahead = self.seconds(in_progress) if in_progress else 0.0
        rounds, rest = divmod(queued, capacity)
        return MARGIN * (ahead + rounds * self.seconds(capacity) + self.seconds(rest + 1))


def _bucket(together: int) -> int:
    return max(0, math.ceil(math.log2(max(1, together))))
