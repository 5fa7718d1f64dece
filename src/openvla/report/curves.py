"""Curves over steps as inline SVG: several runs in one chart, what was trained on solid, what was held out dashed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from openvla.report.svg import WIDTH, svg

COLOURS = 6
LEFT, RIGHT, HEIGHT, FOOT = 58, 8, 190, 24
POINTS = 400
"""Points that a curve is drawn with, at most; of more, neighbours are averaged."""


@dataclass(frozen=True)
class Curve:
    """points: (step, value), finite, by rising step. colour: number of the run. held_out: drawn dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    held_out: bool = False


def curves_chart(curves: Sequence[Curve], description: str) -> str:
    """All curves on common axes. There must be a point in them."""
    thin = [(curve, thinned(curve.points)) for curve in curves if curve.points]
    steps = [step for _, points in thin for step, _ in points]
    ticks = nice_ticks(*_bounds([value for _, points in thin for _, value in points]))
    low, high, first, last = ticks[0], ticks[-1], min(steps), max(max(steps), min(steps) + 1)

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)
        return f"{x:.1f} {HEIGHT * (1 - (value - low) / (high - low)):.1f}"

    parts = [_rule(value, at(first, value)) for value in ticks]
    parts += [_step(step, at(step, low)) for step in (first, last)]
    for curve, points in thin:
        style = f"curve{' held' if curve.held_out else ''} s{curve.colour % COLOURS}"
        path = "M" + "L".join(at(*point) for point in points)
        parts.append(f'<path class="{style}" d="{path}"><title>{escape(curve.name)}</title></path>')
        if len(points) == 1:
            x, y = at(*points[0]).split()
            parts.append(f'<circle class="s{curve.colour % COLOURS}" cx="{x}" cy="{y}" r="3"/>')
    return svg(parts, HEIGHT + FOOT, description)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of neighbours, the last point kept as it is.

    >>> thinned([(0, 0.0), (1, 2.0), (2, 4.0), (3, 6.0), (4, 9.0)], 3)
    [(0.5, 1.0), (2.5, 5.0), (4, 9.0)]
    """
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 1) / (most - 1))
    groups = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    groups[-1] = groups[-1] if groups[-1][-1] != points[-1] else groups[-1][:-1]
    means = [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups if g]
    return [*means, points[-1]]


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers, evenly spaced, from `low` or below to `high` or above.

    >>> nice_ticks(0.13, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high == 0:
        return 0.0, 1.0  # what is nothing so far, such as an F1, is never below
    room = 0.05 * max(abs(low), abs(high))
    return (low, high) if high - low > 1e-6 * max(abs(low), abs(high)) else (low - room, high + room)


def _rule(value: float, place: str) -> str:
    _, y = place.split()
    return (
        f'<path class="rule" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        f'<text class="faint" x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _step(step: float, place: str) -> str:
    x, y = place.split()
    anchor = "start" if float(x) <= LEFT else "end"
    return f'<text class="faint" x="{x}" y="{float(y) + 17:.1f}" text-anchor="{anchor}">step {step:g}</text>'
