"""The single questions of a comparison of two sets of actions, A and B: scale, sign, gripper, rate.

Each function takes two profiles of equal size and answers with a `Finding`, of one dimension where it takes its
number. A shape is minimum, 1 % quantile, mean, 99 % quantile and maximum, in widths (99 % less 1 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla.codec.statistics import FieldStatistics
from openvla.data.compatibility.profiles import Profile

SAME, DIFFERS, UNCLEAR = "same", "differs", "unclear"

FACTOR = 2.0
"""Widths within this factor of each other count as one scale."""
RATE_FACTOR = 1.2
LEAN = 0.25
"""A set leans to one side where its middle is this far from zero, in widths."""
MIRRORED = 0.02
"""A set whose shape is this far from another's, in widths, and five times nearer to its mirror image, is mirrored."""
FOLLOWS = 0.2
"""A correlation of action and motion that says which way an axis points."""
BALANCE = 0.15
"""How far from the middle of its range the mean of a gripper is before it says anything."""
CLEARLY = 0.3
"""The same, of the mean at the beginning of episodes."""
UNITS = {
    "m": {1000.0: "metres against millimetres", 100.0: "metres against centimetres"},
    "rad": {57.3: "radians against degrees"},
}
"""Factors that a unit would explain, by what the unit should be."""


@dataclass(frozen=True)
class Finding:
    """One answer. aspect: "dimensions", "scale", "sign", "gripper" or "rate"; dimension: its name, or None for all."""

    aspect: str
    verdict: str
    text: str
    dimension: str | None = None


def scale(a: Profile, b: Profile, n: int) -> Finding:
    """Whether a step goes as far."""
    name = a.spec.names[n]
    widths = [float(each.statistics.q99[n] - each.statistics.q01[n]) for each in (a, b)]
    ranges = f"{_range(a.statistics, n)} against {_range(b.statistics, n)}"
    if not all(widths):
        if not any(widths) and a.statistics.q01[n] == b.statistics.q01[n]:
            return Finding("scale", SAME, f"{name} is constant in both", name)
        still = "A" if not widths[0] else "B"
        return Finding("scale", DIFFERS, f"{name} (nearly) never changes in {still}: {ranges}", name)
    ratio = widths[1] / widths[0]
    if 1 / FACTOR <= ratio <= FACTOR:
        return Finding("scale", SAME, f"{name} moves as far in A as in B", name)
    larger, smaller, times = ("B", "A", ratio) if ratio > 1 else ("A", "B", 1 / ratio)
    order = (b, a) if ratio > 1 else (a, b)
    text = (
        f"{name} moves {times:.3g} times as far a step in {larger} as in {smaller}, {ranges}{_reason(*order, n, times)}"
    )
    return Finding("scale", DIFFERS, text, name)


def _reason(farther: Profile, nearer: Profile, n: int, times: float) -> str:
    """What would explain a factor: a unit, or the control rates."""
    for factor, words in UNITS.get(nearer.spec.units[n], {}).items():
        if 0.6 < times / factor < 1.6:
            return f"; as if {words}"
    slow, fast = (farther.spec.control_hz, nearer.spec.control_hz)
    if slow and fast > slow and 0.7 < times / (fast / slow) < 1.4:
        return f"; the control rates explain it, {slow:g} and {fast:g} Hz"
    return ""


def sign(a: Profile, b: Profile, n: int) -> Finding:
    """Whether the axis points the same way."""
    name, one, other = a.spec.names[n], a.follows[n], b.follows[n]
    if np.isfinite(one) and np.isfinite(other):
        if one * other < 0 and min(abs(one), abs(other)) > FOLLOWS:
            with_, against = ("A", "B") if one > 0 else ("B", "A")
            text = f"{name} points the other way: the robot moves along it in {with_} and against it in {against}"
            return Finding("sign", DIFFERS, text, name)
        if min(abs(one), abs(other)) > FOLLOWS:
            return Finding("sign", SAME, f"{name} points the same way", name)
    straight, mirrored = _shape(a.statistics, n, 1), _shape(a.statistics, n, -1)
    shape = _shape(b.statistics, n, 1)
    ranges = f"{_range(a.statistics, n)} against {_range(b.statistics, n)}"
    distance, mirror_distance = np.abs(straight - shape).max(), np.abs(mirrored - shape).max()
    if distance > MIRRORED and mirror_distance < distance / 5:
        return Finding(
            "sign", DIFFERS, f"{name} points the other way: its values in B are those of A mirrored, {ranges}", name
        )
    leans = [_lean(each.statistics, n) for each in (a, b)]
    if leans[0] * leans[1] < 0 and min(map(abs, leans)) > LEAN:
        text = f"{name} leans to opposite sides, {ranges}; as if the axis pointed the other way"
        return Finding("sign", DIFFERS, text, name)
    if (leans[0] * leans[1] > 0 and min(map(abs, leans)) > LEAN) or distance < mirror_distance / 5:
        return Finding("sign", SAME, f"{name} leans to the same side", name)
    return Finding("sign", UNCLEAR, f"{name}: the statistics of both fit either direction", name)


def _shape(statistics: FieldStatistics, n: int, sign: int) -> NDArray[np.float64]:
    """Minimum, 1 %, mean, 99 % and maximum in widths, of the values times `sign`."""
    points = [
        float(values[n]) for values in (statistics.min, statistics.q01, statistics.mean, statistics.q99, statistics.max)
    ]
    width = points[3] - points[1]
    return np.asarray(points)[::sign] * sign / width if width else np.zeros(5)


def _lean(statistics: FieldStatistics, n: int) -> float:
    return float(_shape(statistics, n, 1)[[1, 3]].mean())


def gripper(a: Profile, b: Profile) -> Iterator[Finding]:
    """Whether the gripper opens towards the same number, in the same range, and is treated alike."""
    places = gripper_of(a), gripper_of(b)
    if places == (None, None):
        yield Finding("gripper", SAME, "neither has a gripper, as far as is known")
        return
    if None in places:
        with_, without = ("A", "B") if places[1] is None else ("B", "A")
        yield Finding("gripper", UNCLEAR, f"{with_} has a gripper, of {without} it is not known")
        return
    n = a.statistics.dim - 1
    ranges = f"{_span(a.statistics, n)} against {_span(b.statistics, n)}"
    if a.spec.gripper != b.spec.gripper:
        words = {"open_is_high": "high values", "open_is_low": "low values"}
        text = f"it opens towards {words[a.spec.gripper]} in A and towards {words[b.spec.gripper]} in B"
        yield Finding("gripper", DIFFERS, text, a.spec.names[n])
    elif not np.isclose(a.statistics.min[n], b.statistics.min[n], atol=0.2) or not np.isclose(
        a.statistics.max[n], b.statistics.max[n], atol=0.2
    ):
        yield Finding("gripper", DIFFERS, f"its values have another range, {ranges}", a.spec.names[n])
    else:
        yield _gripper_sense(a, b, n)
    masks = a.statistics.mask, b.statistics.mask
    if masks[0] is not None and masks[1] is not None and masks[0][n] != masks[1][n]:
        one, other = ("A", "B") if a.statistics.normalized[n] else ("B", "A")
        yield Finding("gripper", DIFFERS, f"it is normalised in {one} and left as it is in {other}", a.spec.names[n])


def _gripper_sense(a: Profile, b: Profile, n: int) -> Finding:
    """Whether both open towards the same number, where both say so and have the same range."""
    name, low, high = a.spec.names[n], float(a.statistics.min[n]), float(a.statistics.max[n])
    starts, means = (
        [_share(value, low, high) for value in pair]
        for pair in ((a.start, b.start), (float(a.statistics.mean[n]), float(b.statistics.mean[n])))
    )
    if starts[0] * starts[1] < 0 and min(map(abs, starts)) > CLEARLY:
        text = (
            f"episodes begin with {a.start:.2g} in A and {b.start:.2g} in B; one of them is closed where it says open"
        )
        return Finding("gripper", DIFFERS, text, name)
    if means[0] * means[1] < 0 and min(map(abs, means)) > BALANCE and not min(map(abs, starts)) > CLEARLY:
        values = f"{a.statistics.mean[n]:.2g} in A and {b.statistics.mean[n]:.2g} in B"
        text = f"its mean is {values}; one of them may be closed where it says open"
        return Finding("gripper", UNCLEAR, text, name)
    return Finding("gripper", SAME, f"it opens the same way, in the same range {_span(a.statistics, n)}", name)


def _share(value: float, low: float, high: float) -> float:
    """Where `value` is in the range, from -0.5 to 0.5; 0 where nobody knows."""
    return (value - low) / (high - low) - 0.5 if high > low and math.isfinite(value) else 0.0


def gripper_of(profile: Profile) -> int | None:
    """The dimension of the gripper; None where none is known."""
    return None if profile.spec.gripper == "none" else profile.statistics.dim - 1


def rate(one: float, other: float) -> Finding:
    """Whether both act as often: control rates in Hz, 0 for unknown."""
    if not (one and other):
        unknown = " and ".join(side for side, rate in (("A", one), ("B", other)) if not rate)
        return Finding("rate", UNCLEAR, f"the control rate of {unknown} is not known")
    if max(one, other) / min(one, other) > RATE_FACTOR:
        return Finding("rate", DIFFERS, f"A acts {one:g} times a second, B {other:g} times")
    return Finding("rate", SAME, f"both act about {one:g} times a second")


def _range(statistics: FieldStatistics, n: int) -> str:
    return f"{statistics.q01[n]:.3g}..{statistics.q99[n]:.3g}"


def _span(statistics: FieldStatistics, n: int) -> str:
    return f"{statistics.min[n]:.3g}..{statistics.max[n]:.3g}"
