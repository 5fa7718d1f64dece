"""Mend a data set: the fixes that `data doctor --fix` offers, applied episode by episode to a copy.

    strip-noops       drop steps that do nothing: |action without gripper| < 1e-4 and the gripper as in the last kept
                      step, as the published LIBERO data were filtered
    resample=5hz      one step out of several: relative motions are added up (rotations too, which is right for small
                      ones), the gripper and what ends an episode are taken from the last, what is seen from the first
    resample-absolute=5hz   the same for absolute actions: the last one of each group
    drop-nan          drop steps with NaN or infinity in the action or in a number of the robot's state
    drop-unlabelled   drop episodes without an instruction
    label=WORDS       give these words to steps without an instruction
    invert-gripper    turn the gripper, the last dimension, round: 1 - x where no value is negative, else -x

Fixes apply in the order given; an episode that loses all its steps is dropped. Marks of first and last step, rewards
and timestamps are put right after steps have gone. Where a record says what the action is, that is what is judged, and
the copy keeps the raw names: it is read with the same record.

Shapes: T steps, A action dimensions.
Source: the no-op filter of the published LIBERO regeneration script.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.bad import BadData
from openvla.data.conversion.acting import Acting, column
from openvla.data.conversion.recode import take
from openvla.data.conversion.resample import joined
from openvla.data.episode import Episode
from openvla.data.formats.source import ACTION, Source
from openvla.data.registry.record import DataRecord
from openvla.data.tfds.features import Features
from openvla.data.tfds.fields import objects
from openvla.errors import DataError, UsageError, lookup

NOOP = 1e-4
Fix = Callable[[Episode], Episode]


@dataclass(frozen=True)
class _Context:
    """What fixes need to know of the whole data set."""

    value: str
    control_hz: float
    lowest_gripper: Callable[[], float]
    acting: Acting


def noop_steps(actions: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the steps (T, A) do nothing, beside the last one that does something."""
    still = np.linalg.norm(actions[:, :-1], axis=1) < NOOP
    found = np.zeros(len(actions), bool)
    gripper: float | None = None
    for step in range(len(actions)):
        found[step] = still[step] and (gripper is None or actions[step, -1] == gripper)
        if not found[step]:
            gripper = float(actions[step, -1])
    return found


class CleanedSource(Source):
    """`source` with the fixes applied; its splits count the episodes before, of which some may be dropped."""

    def __init__(
        self, source: Source, fixes: Sequence[str], control_hz: float = 0.0, record: DataRecord | None = None
    ) -> None:
        """fixes: as listed above. control_hz: 0 takes what `source` says, or else the record. Raises UsageError.

        record: makes the action and the words that are judged; None takes those that are called so.
        """
        said = source.control_hz or (record.action.control_hz if record is not None else 0.0)
        super().__init__(source.path, source.name, source.version, control_hz or said)
        self.format, self._source, self.fixes, self._acting = source.format, source, tuple(fixes), Acting(record)
        self._steps: list[Fix] = []
        for text in fixes:
            name, _, value = text.partition("=")
            make = lookup(name, FIXES, "fix")
            self._steps.append(make(_Context(value, self.control_hz, self._lowest_gripper, self._acting)))
            if name.startswith("resample"):
                self.control_hz = _hz(value)

    def _count(self) -> Mapping[str, int]:
        return self._source.splits

    def _describe(self) -> Features:
        return self._source.features

    def load(self, split: str, number: int) -> Episode:
        return self._mended(self._source.load(split, number))

    def episodes(self, split: str = "train", bad: BadData | None = None) -> Iterator[Episode]:
        """The mended episodes that have steps left; `bad` has its say in those that cannot be mended, too."""
        bad = bad or BadData()
        episodes = self._source.episodes(split, bad)
        mended = bad.good(partial(self._mended, episode) for episode in episodes)
        return (episode for episode in mended if len(episode))

    def _mended(self, episode: Episode) -> Episode:
        for fix in self._steps:
            if len(episode):
                episode = fix(episode)
        return episode

    def _lowest_gripper(self) -> float:
        """The smallest value of the last action dimension in the whole data set."""
        bad = BadData("skip", quiet=True)
        rows = bad.good(partial(self._acting.rows, episode) for episode in self._source.episodes("all", bad))
        lows = (np.fmin.reduce(row.action[:, -1], initial=np.inf, dtype=np.float64) for row in rows)  # past NaN
        return min(map(float, lows), default=0.0)


def _strip_noops(context: _Context) -> Fix:
    _takes_no_value("strip-noops", context)

    def fix(episode: Episode) -> Episode:
        rows = context.acting.rows(episode)
        return _without(episode, rows.step, noop_steps(rows.action), context.control_hz)

    return fix


def _drop_nan(context: _Context) -> Fix:
    _takes_no_value("drop-nan", context)

    def fix(episode: Episode) -> Episode:
        good = np.ones(len(episode), bool)
        for name, values in episode.steps.items():
            if values.dtype.kind == "f" and name.startswith((ACTION, "observation")):
                good &= np.isfinite(np.asarray(values)).reshape(len(values), -1).all(axis=1)
        episode = _keep(episode, np.flatnonzero(good), context.control_hz)
        if context.acting.record is None or not len(episode):
            return episode  # what a record may compute of the numbers is left to look at
        rows = context.acting.rows(episode)
        finite: NDArray[np.bool_] = np.isfinite(np.hstack([rows.action, rows.state]))
        return _without(episode, rows.step, ~np.asarray(finite.all(axis=1)), context.control_hz)

    return fix


def _drop_unlabelled(context: _Context) -> Fix:
    _takes_no_value("drop-unlabelled", context)

    def fix(episode: Episode) -> Episode:
        said = any(words.strip() for words in context.acting.words(episode))
        return episode if said else take(episode, np.empty(0, np.int64))

    return fix


def _label(context: _Context) -> Fix:
    if not context.value.strip():
        raise UsageError("the fix 'label' needs words, e.g. label='put the cup on the plate'")

    def fix(episode: Episode) -> Episode:
        key = context.acting.words_key(episode)
        held = None if key is None else episode.steps[key]
        if held is None or held.dtype != object:
            raise DataError(f"{episode.source} has no text that the instruction stands in; record language_instruction")
        is_bytes = bool(len(held)) and isinstance(held[0], bytes)
        words: Any = context.value.encode() if is_bytes else context.value
        mended = objects(item if item.strip() else words for item in held)
        return dataclasses.replace(episode, steps={**episode.steps, key: mended})

    return fix


def _invert_gripper(context: _Context) -> Fix:
    _takes_no_value("invert-gripper", context)
    one: list[bool] = []

    def fix(episode: Episode) -> Episode:
        if not one:
            one.append(context.lowest_gripper() >= 0)
        was = context.acting.rows(episode).action[:, -1]
        place = context.acting.places(episode)[-1]
        if place is None:
            raise DataError(f"{episode.source}: the record computes the gripper; turn it round there, with inverted()")
        values = np.array(episode.steps[place.name])
        column(values, place)[:] = _turned(column(values, place), one[0])
        made = dataclasses.replace(episode, steps={**episode.steps, place.name: values})
        now = context.acting.rows(made).action[:, -1]
        if not np.allclose(now, _turned(was, one[0]), equal_nan=True):
            raise DataError(f"{episode.source}: the record bends the gripper; turn it round there, with inverted()")
        return made

    return fix


def _turned(values: NDArray[Any], from_zero: bool) -> NDArray[Any]:
    """A gripper in 0..1, or in -1..1, that means the opposite."""
    if values.dtype == bool:
        return ~values
    return 1 - values if from_zero else -values


def _resample(absolute: bool) -> Callable[[_Context], Fix]:
    def make(context: _Context) -> Fix:
        target = _hz(context.value)
        if not context.control_hz:
            raise UsageError("the data do not say their control rate, which resampling needs; give --hz")
        if target > context.control_hz:
            raise UsageError(f"cannot resample {context.control_hz:g} Hz to {target:g} Hz; steps can only be joined")
        ratio = target / context.control_hz

        def fix(episode: Episode) -> Episode:
            groups = np.floor(np.arange(len(episode)) * ratio + 1e-6).astype(np.int64)
            return _retimed(joined(episode, groups, context.acting, absolute), target)

        return fix

    return make


def _without(episode: Episode, steps: NDArray[np.int64], unwanted: NDArray[np.bool_], hz: float) -> Episode:
    """The episode without the raw `steps` (N,) of the `unwanted` rows; where no row is left, no step is left."""
    if unwanted.all():
        return take(episode, np.empty(0, np.int64))
    return _keep(episode, np.setdiff1d(np.arange(len(episode)), steps[unwanted]), hz)


def _keep(episode: Episode, rows: NDArray[np.int64], hz: float) -> Episode:
    """The steps `rows`, with the marks of first and last step, and the reward, put right."""
    if len(rows) == len(episode):
        return episode
    kept = take(episode, rows)
    if not len(rows):
        return kept
    steps: dict[str, Any] = dict(kept.steps)
    place = np.arange(len(rows))
    for name, mark in (("is_first", place == 0), ("is_last", place == len(rows) - 1)):
        if name in steps:
            steps[name] = mark.astype(steps[name].dtype)
    if "is_terminal" in steps:
        ended = (place == len(rows) - 1) & bool(np.any(episode.steps["is_terminal"]))
        steps["is_terminal"] = ended.astype(steps["is_terminal"].dtype)
    if "reward" in steps:
        steps["reward"] = np.array(steps["reward"])
        steps["reward"][-1] += np.sum(episode.steps["reward"][rows[-1] + 1 :], axis=0)
    return _retimed(dataclasses.replace(kept, steps=steps), hz)


def _retimed(episode: Episode, hz: float) -> Episode:
    """Timestamps at the control rate, where there are any and the rate is known."""
    if "timestamp" not in episode.steps or not hz:
        return episode
    held = episode.steps["timestamp"]
    times = (np.arange(len(held)) / hz).astype(held.dtype).reshape(held.shape)
    return dataclasses.replace(episode, steps={**episode.steps, "timestamp": times})


def _hz(text: str) -> float:
    try:
        value = float(text.lower().removesuffix("hz"))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"the rate {text!r} is no number above 0; write e.g. resample=5hz")
    return value


def _takes_no_value(name: str, context: _Context) -> None:
    if context.value:
        raise UsageError(f"the fix {name!r} takes no value, not {context.value!r}")


FIXES: dict[str, Callable[[_Context], Fix]] = {
    "strip-noops": _strip_noops,
    "resample": _resample(absolute=False),
    "resample-absolute": _resample(absolute=True),
    "drop-nan": _drop_nan,
    "drop-unlabelled": _drop_unlabelled,
    "label": _label,
    "invert-gripper": _invert_gripper,
}
