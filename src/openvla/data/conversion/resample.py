"""One step out of several: motions are added up, positions and the gripper are the last ones, what is seen the first.

The raw numbers are changed, where the action is made of raw ones by a record. Whether the record then makes the sum of
the motions of them is checked for every episode, since a record may do anything to its numbers.

Shapes: T raw steps, G groups of them, A action dimensions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.conversion.acting import Acting, Rows, column
from openvla.data.conversion.recode import take
from openvla.data.episode import Episode
from openvla.data.registry.record import DataRecord
from openvla.errors import DataError

ENDS = ("is_last", "is_terminal", "done", "dones", "discount")
"""What of a group's last step is true of the whole group."""
CLOSE = 1e-4
"""How far the sum of float32 motions may be from the motion that is made of summed numbers."""


def joined(episode: Episode, groups: NDArray[np.int64], acting: Acting, absolute: bool) -> Episode:
    """One step for each group; `groups` (T,) counts up from 0 by 1 at most. absolute: positions in every dimension.

    Raises DataError where the record makes something else than the sum of the motions of it, and as `Acting.rows`.
    """
    before = acting.rows(episode)
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    last = np.append(first[1:], len(episode)) - 1
    seen = take(episode, first)
    steps: dict[str, Any] = dict(seen.steps)
    for name in ENDS:
        if name in steps:
            steps[name] = episode.steps[name][last]
    if "reward" in steps:
        steps["reward"] = np.add.reduceat(episode.steps["reward"], first, axis=0)
    places = acting.places(episode)
    motion = np.zeros(len(places), bool) if absolute else acting.motion(len(places))
    placed = {place.name for place in places if place is not None}
    for name in placed:
        steps[name] = np.array(episode.steps[name][last])
    for place, moves in zip(places, motion, strict=True):
        if place is not None and moves:
            column(steps[place.name], place)[:] = np.add.reduceat(column(episode.steps[place.name], place), first)
    if None in places:
        for name in _commanded(episode, placed):
            values = episode.steps[name]
            steps[name] = np.array(values[last]) if absolute else np.add.reduceat(values, first, axis=0)
    made = dataclasses.replace(seen, steps=steps)
    if acting.record is not None:
        _check(before, made, groups, acting.record, motion)
    return made


def _commanded(episode: Episode, known: set[str]) -> list[str]:
    """What a record's own functions may make motions of: numbers that are neither seen nor said, nor `known`."""
    names = [name for name, values in episode.steps.items() if values.dtype.kind == "f" and name not in known]
    return [name for name in names if not name.startswith("observation") and name not in (*ENDS, "reward", "timestamp")]


def _check(
    before: Rows, made: Episode, groups: NDArray[np.int64], record: DataRecord, motion: NDArray[np.bool_]
) -> None:
    """That each row of `made` does what the rows `before` of its group did, where the record keeps the whole group.

    A gripper in the last place is not looked at: a record may binarise it over the whole episode.
    """
    after = Acting(record).rows(made)
    group, sizes = groups[before.step], np.bincount(groups)
    whole = np.bincount(group, minlength=len(sizes)) == sizes
    totals = np.zeros((len(sizes), before.action.shape[1]))
    np.add.at(totals, group, before.action)
    ends = np.zeros_like(totals)
    ends[group] = before.action  # the last row of each group is written last
    expected = np.where(motion, totals, ends)[after.step]
    wrong = np.abs(after.action - expected) > CLOSE * (1 + np.abs(expected))
    if record.action.gripper != "none":
        wrong = wrong[:, :-1]
    bad = np.flatnonzero(wrong.any(axis=1) & whole[after.step])
    if len(bad):
        raise DataError(
            f"{made.source}: resampling would not add up: {record.name!r} makes {_short(after.action[bad[0]])} of "
            f"the joined step {bad[0]}, whose steps together are {_short(expected[bad[0]])}; write a record whose "
            "motions are columns of the data"
        )


def _short(values: NDArray[Any]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"
