from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from openvla.sim.charts import latency_chart, steps_chart, success_chart
from openvla.sim.evaluation import EpisodeResult, TaskResult


def result(outcomes):
    return TaskResult("do it", tuple(EpisodeResult("t", i, good, 10 + i) for i, good in enumerate(outcomes)))


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("text")]


def test_bars_are_as_long_as_the_success_rate():
    svg = success_chart([{"door": result([True, False]), "lid": result([True, True])}])
    widths = [float(element.get("width")) for element in ET.fromstring(svg).iter("rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.1)
    assert {"door", "lid", "50%", "100%"} <= set(texts(svg))


def test_only_the_evaluations_that_have_a_task_take_room_in_it():
    one = success_chart([{"a": result([True])}])
    shared = success_chart([{"a": result([True])}, {"a": result([False])}])
    apart = success_chart([{"a": result([True])}, {"b": result([False])}])
    heights = [float(ET.fromstring(svg).get("viewBox").split()[3]) for svg in (one, shared, apart)]
    assert heights[0] < heights[1] < heights[2]
    assert 'class="s0"' in apart
    assert 'class="s1"' in apart


def test_steps_show_one_dot_per_success_and_say_where_there_is_none():
    svg = steps_chart([{"a": result([True, True, False]), "b": result([False])}])
    assert len(list(ET.fromstring(svg).iter("circle"))) == 2
    assert {"10.5", "none"} <= set(texts(svg))
    assert "none" in texts(steps_chart([{"b": result([False])}]))


def test_latency_shows_percentiles_and_the_control_period():
    svg = latency_chart([[10.0] * 98 + [20.0] * 2, [5.0]], budget_ms=62.5)
    assert {"p50 10.0 ms", "p99 20.0 ms", "p50 5.0 ms"} <= set(texts(svg))
    assert 'class="budget"' in svg
    assert len(list(ET.fromstring(svg).iter("rect"))) == 3


def test_names_are_escaped():
    svg = success_chart([{"<b>&": result([True])}])
    assert "<b>&" in texts(svg)
    assert not re.search("<b>", svg)
