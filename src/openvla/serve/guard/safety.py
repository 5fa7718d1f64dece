"""The last look at an action before it leaves: finite, within limits, not too sudden, not too unsure.

A clipped value stays a value; an action that must not be executed at all is replaced as a whole by the declared
fallback, "hold": no motion, the gripper as it was. Everything done to an action is flagged, so that a reply says so and
a counter counts it.

Shapes: chunk consecutive actions of dim values.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, UsageError, lookup, unknown
from openvla.files import read_json
from openvla.serve.guard.refusals import INTERNAL, STALE, Refusal
from openvla.spec import Action, ActionSpec

LAST = math.nan
"""Hold value of a dimension that stays as it was last sent."""

MEMORY = 1024
FORGET_S = 10.0
LIMIT_KEYS = ("low", "high", "max_change", "hold")


@dataclass(frozen=True)
class SafetyRules:
    """What an action may be; arrays are float64 (dim,), in the units of the spec.

    low, high: values are clipped to these. max_change: largest difference between consecutive actions of one robot;
    inf for none. hold: the action that stands for "do not move"; NaN keeps what was last sent.
    min_confidence: the least probable bin of an action must have this probability. max_age_s: oldest observation.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    max_change: NDArray[np.float64]
    hold: NDArray[np.float64]
    min_confidence: float = 0.0
    max_age_s: float = math.inf


@dataclass(frozen=True)
class Flags:
    """What was done to an action. clipped, slowed: names of dimensions; held: why the whole was replaced, or None."""

    clipped: tuple[str, ...] = ()
    slowed: tuple[str, ...] = ()
    held: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"clipped": list(self.clipped), "slowed": list(self.slowed), "held": self.held}

    def __bool__(self) -> bool:
        return bool(self.clipped or self.slowed or self.held)


def rules_of(spec: ActionSpec) -> SafetyRules:
    """The range of the spec, no limit on change, and a hold of zeros with the gripper as it was."""
    hold = np.zeros(spec.dim)
    if spec.gripper != "none":
        hold[-1] = LAST
    return SafetyRules(spec.low.copy(), spec.high.copy(), np.full(spec.dim, np.inf), hold)


def read_rules(path: Path, spec: ActionSpec) -> SafetyRules:
    """The rules of the spec, changed by a JSON file: {"x": {"low": -1, "high": 1, "max_change": 0.2, "hold": 0}, ...}.

    "hold" may be "last". Raises UsageError for a file that is not of this form.
    """
    remedy = 'write {"dimension": {"low": ..., "high": ..., "max_change": ..., "hold": ...}, ...}'
    document = read_json(path, UsageError, remedy)
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds a {type(document).__name__}; {remedy}")
    rules = rules_of(spec)
    places = {name: index for index, name in enumerate(spec.names)}
    for name, entries in cast("dict[str, object]", document).items():
        index = lookup(name, places, f"action dimension in {path}")
        if not isinstance(entries, dict):
            raise UsageError(f"{path}: {name!r} is {entries!r}; {remedy}")
        for key, value in cast("dict[str, object]", entries).items():
            if key not in LIMIT_KEYS:
                raise UsageError(f"{path}: {unknown(key, LIMIT_KEYS, 'limit')}")
            getattr(rules, key)[index] = _limit(path, f"{name}.{key}", value)
    if not (rules.low < rules.high).all() or not (rules.max_change > 0).all():
        raise UsageError(f"{path}: every low must be below its high, and every max_change above 0")
    return rules


def _limit(path: Path, where: str, value: object) -> float:
    if value == "last" and where.endswith(".hold"):
        return LAST
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{path}: {where} is {value!r}; give a finite number")
    return float(value)


@dataclass
class _Memory:
    """Per robot: what was sent last, float64 (dim,), and when."""

    sent: OrderedDict[str, tuple[NDArray[np.float64], float]] = field(
        default_factory=OrderedDict[str, tuple[NDArray[np.float64], float]]
    )

    def last(self, robot: str) -> NDArray[np.float64] | None:
        values, when = self.sent.get(robot, (None, -math.inf))
        return values if time.monotonic() - when < FORGET_S else None

    def keep(self, robot: str, values: NDArray[np.float64]) -> None:
        self.sent[robot] = (values, time.monotonic())
        self.sent.move_to_end(robot)
        while len(self.sent) > MEMORY:
            self.sent.popitem(last=False)


class Guard:
    """Applies `rules` to every action of every robot."""

    def __init__(self, rules: SafetyRules, names: tuple[str, ...]) -> None:
        self.rules = rules
        self._names = names
        self._memory = _Memory()

    def check_age(self, captured_at: float | None) -> None:
        """Raise Refusal (422) for an observation older than the rules allow, or, where they do, of unknown age."""
        if math.isinf(self.rules.max_age_s):
            return
        if captured_at is None:
            raise Refusal(
                STALE,
                "stale",
                f"this server takes observations of at most {self.rules.max_age_s:g} s; send 'captured_at', in seconds "
                "since 1970",
            )
        age = time.time() - captured_at
        if age > self.rules.max_age_s:
            raise Refusal(
                STALE,
                "stale",
                f"the observation is {age:.2f} s old, and this server takes at most {self.rules.max_age_s:g} s; send a "
                "fresh one, or check both clocks",
            )

    def apply(self, action: Action, robot: str) -> tuple[Action, Flags]:
        """The action that may be executed, and what was done to it. Raises Refusal (500) where none can be made."""
        values = np.array(np.atleast_2d(action.values), np.float64)
        if values.ndim != 2 or values.shape[1] != len(self._names) or not len(values):
            raise InputError(f"the policy answered values of shape {values.shape}, not (chunk, {len(self._names)})")
        last = self._memory.last(robot)
        reason = self._unfit(values, action.confidence)
        if reason is not None:
            values, flags = self._hold(values, last), Flags(held=reason)
        else:
            clipped = np.clip(values, self.rules.low, self.rules.high)
            slowed = self._slow(clipped, last)
            flags = Flags(self._changed(values, clipped), self._changed(clipped, slowed))
            values = slowed
        self._memory.keep(robot, values[-1])
        return replace(action, values=values), flags

    def forget(self, robot: str) -> None:
        """A new episode: nothing was sent yet."""
        self._memory.sent.pop(robot, None)

    def _unfit(self, values: NDArray[np.float64], confidence: NDArray[np.floating] | None) -> str | None:
        if not np.isfinite(values).all():
            return "not_finite"
        if confidence is None or self.rules.min_confidence == 0:
            return None
        sure = bool((confidence >= self.rules.min_confidence).all())  # which NaN is not
        return None if sure else "low_confidence"

    def _slow(self, values: NDArray[np.float64], last: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """`values` with each row at most `max_change` from the one before."""
        if np.isinf(self.rules.max_change).all():
            return values
        rows: list[NDArray[np.float64]] = []
        for row in values:
            if last is not None:
                row = last + np.clip(row - last, -self.rules.max_change, self.rules.max_change)
            rows.append(row)
            last = row
        return np.stack(rows)

    def _hold(self, values: NDArray[np.float64], last: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """One row of holding; a dimension that keeps its last value takes the policy's own where nothing was sent."""
        known = np.clip(values[0], self.rules.low, self.rules.high) if last is None else last
        row = np.where(np.isnan(self.rules.hold), known, self.rules.hold)
        if not np.isfinite(row).all():
            raise Refusal(
                INTERNAL, "not_finite", "the policy answered NaN, and nothing was sent before that could be held"
            )
        return np.repeat(row[None], len(values), axis=0)

    def _changed(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[str, ...]:
        changed = (before != after).any(axis=0)
        return tuple(name for name, yes in zip(self._names, changed, strict=True) if yes)
