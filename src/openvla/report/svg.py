"""The frame of a chart as inline SVG, coloured by the page through classes: `s0`..`s5`, `ink`, `faint`, `rule`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 760


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 4, 6, 8, 10 times a power of ten that is not below `value` (above 0)."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10, 20) if step * power >= value)


def svg(parts: Sequence[str], total: float, description: str) -> str:
    """The parts as one scalable picture, `total` high, with a description for those who cannot see it."""
    return (
        f'<svg viewBox="0 -2 {WIDTH} {total + 2:.0f}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )
