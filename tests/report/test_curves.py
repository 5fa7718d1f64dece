from __future__ import annotations

import itertools

import pytest

from openvla.report.curves import Curve, curves_chart, nice_ticks, thinned


@pytest.mark.parametrize(
    ("low", "high"), [(0.13, 0.97), (-3.2, 12.0), (1e-5, 3e-4), (1e9, 5.4e9), (0.1, 0.100001), (0.0, 1.0), (-2.0, -1.9)]
)
def test_ticks_are_few_even_and_hold_the_values_between_them(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert 4 <= len(ticks) <= 9
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert max(steps) == pytest.approx(min(steps), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 399, 400, 401, 402, 799, 800, 801, 5000])
def test_a_thinned_curve_is_short_rises_and_keeps_its_end(count: int) -> None:
    points = [(float(step), float(step % 7)) for step in range(count)]
    thin = thinned(points)
    assert len(thin) <= 400
    assert thin[-1] == points[-1]
    assert [step for step, _ in thin] == sorted(step for step, _ in thin)


def test_a_curve_of_one_value_or_one_point_is_drawn() -> None:
    assert "<circle" in curves_chart([Curve("one", [(3.0, 0.0)])], "one")
    assert "-1" not in curves_chart([Curve("zero", [(0.0, 0.0), (9.0, 0.0)])], "zero").partition("<text")[2]
    assert 'class="curve s0"' in curves_chart([Curve("flat", [(0.0, 5.0), (9.0, 5.0)])], "flat")


def test_names_are_escaped() -> None:
    assert "<b>" not in curves_chart([Curve("<b>", [(0.0, 1.0), (1.0, 2.0)])], "<b>")
