"""Guesses of the next action from those before it: at control rates, successive actions are much alike.

A guess continues the tokens already chosen. It comes from the newest remembered action that agrees with them in the
most tokens just before the gap, at the same places (an n-gram that knows its dimension); without agreement it is the
newest action.

Source: Saxena 2023 (prompt lookup decoding), with the robot's own past as the prompt.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Guess = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Chosen tokens (B, n) of every row to guesses (B, K), of which those from n on are used."""

REMEMBERED = 16
"""Actions per stream."""
STREAMS = 64
"""Streams; the one that was used longest ago is forgotten first."""


class Memory:
    """Recent actions by stream; a stream is whatever tells robots or tasks apart, here the instruction."""

    def __init__(self) -> None:
        self._streams: OrderedDict[Any, deque[NDArray[np.int64]]] = OrderedDict()

    def guess(self, keys: Sequence[Any]) -> Guess | None:
        """Guesses for rows of these streams; None where there is nothing to go by."""
        pasts = [self._streams.get(key) for key in keys]
        if not all(pasts):
            return None
        return lambda chosen: np.stack([continuation(past or (), row) for past, row in zip(pasts, chosen, strict=True)])

    def remember(self, keys: Sequence[Any], tokens: NDArray[np.int64]) -> None:
        """Add the newest action (B, K) of each stream."""
        for key, row in zip(keys, tokens, strict=True):
            self._streams.setdefault(key, deque(maxlen=REMEMBERED)).append(row)
            self._streams.move_to_end(key)
        while len(self._streams) > STREAMS:
            self._streams.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._streams.clear()


def continuation(past: Sequence[NDArray[np.int64]], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The remembered action (K,) to go by after `chosen` (n,), newest first among those that agree longest.

    >>> past = [np.array([1, 2, 3]), np.array([1, 5, 6]), np.array([4, 7, 8])]
    >>> continuation(past, np.array([1])).tolist()
    [1, 5, 6]
    >>> continuation(past, np.array([9])).tolist()
    [4, 7, 8]
    """

    def agreement(action: NDArray[np.int64]) -> int:
        equal = (action[: len(chosen)] == chosen)[::-1]
        return int(equal.argmin()) if not equal.all() else len(chosen)

    return max(reversed(past), key=agreement)
