from __future__ import annotations

import numpy as np

from openvla.infer.speculation import REMEMBERED, STREAMS, Memory, continuation


def row(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def test_without_a_past_there_is_no_guess() -> None:
    memory = Memory()
    assert memory.guess(["open"]) is None
    memory.remember(["open"], row(1, 2)[None])
    assert memory.guess(["open", "close"]) is None
    memory.clear()
    assert memory.guess(["open"]) is None


def test_each_stream_is_guessed_from_its_own_past() -> None:
    memory = Memory()
    memory.remember(["a", "b"], np.stack([row(1, 2), row(3, 4)]))
    guess = memory.guess(["b", "a"])
    assert guess is not None
    assert guess(np.zeros((2, 0), np.int64)).tolist() == [[3, 4], [1, 2]]


def test_the_longest_agreement_before_the_gap_wins_and_then_the_newest() -> None:
    past = [row(1, 2, 3, 4), row(9, 2, 5, 6), row(1, 7, 8, 8)]
    assert continuation(past, row(1, 2)).tolist() == [1, 2, 3, 4]
    assert continuation(past, row(9)).tolist() == [9, 2, 5, 6]
    assert continuation(past, row(5)).tolist() == [1, 7, 8, 8]
    assert continuation(past, row()).tolist() == [1, 7, 8, 8]


def test_memory_is_bounded() -> None:
    memory = Memory()
    for number in range(3 * STREAMS):
        for _ in range(2 * REMEMBERED):
            memory.remember([number], row(number)[None])
    assert len(memory._streams) == STREAMS
    assert all(len(past) == REMEMBERED for past in memory._streams.values())
    assert memory.guess([0]) is None
