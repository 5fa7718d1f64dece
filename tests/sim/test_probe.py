from __future__ import annotations

import pytest

from openvla.errors import UsageError
from openvla.sim.probe import swapped_instructions

WORDS = {"a": "do a", "b": "do b", "c": "do c"}


def test_neighbours_exchange_their_instructions() -> None:
    assert swapped_instructions(WORDS, ["a", "b"]) == {"a": "do b", "b": "do a"}


def test_the_odd_one_out_takes_the_first_tasks() -> None:
    assert swapped_instructions(WORDS, ["a", "b", "c"]) == {"a": "do b", "b": "do a", "c": "do a"}


def test_a_task_named_twice_counts_once() -> None:
    assert swapped_instructions(WORDS, ["a", "a", "b"]) == {"a": "do b", "b": "do a"}


def test_no_task_keeps_its_own_words() -> None:
    for count in (2, 3):
        tasks = list(WORDS)[:count]
        assert all(words != WORDS[task] for task, words in swapped_instructions(WORDS, tasks).items())


@pytest.mark.parametrize("tasks", [["a"], ["a", "a"]])
def test_one_task_alone_cannot_swap(tasks: list[str]) -> None:
    with pytest.raises(UsageError, match="1 task has no other to exchange instructions with; name at least two"):
        swapped_instructions(WORDS, tasks)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UsageError, match="unknown task 'd'"):
        swapped_instructions(WORDS, ["a", "d"])
