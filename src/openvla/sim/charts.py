"""Charts as inline SVG, coloured by the page through classes: `s0`..`s5` for series, `ink`, `faint`, `rule`.

Every function returns one `<svg>` element as text; whatever comes from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from openvla.report.svg import WIDTH, nice_ceiling, svg
from openvla.sim.evaluation import TaskResult

LABELS = 176  # pixels left of the axis, for task names
NUMBERS = 64  # pixels right of it
AXIS = WIDTH - LABELS - NUMBERS
HISTOGRAM = 82  # pixels for one evaluation's latencies
BINS = 60
LINE = 15  # pixels for one evaluation of one task
GAP = 13  # pixels between tasks
FOOT = 26  # pixels below the last task, for the axis
SERIES = 6

Series = Mapping[str, TaskResult]
"""One evaluation's results by task."""


@dataclass(frozen=True)
class Line:
    """One evaluation of one task: its rank among the evaluations and the height at which it is drawn."""

    rank: int
    middle: float
    result: TaskResult


def lines(series: Sequence[Series]) -> tuple[dict[str, list[Line]], float]:
    """The lines of each task from top to bottom, and the pixels that they take together."""
    placed: dict[str, list[Line]] = {}
    top = 0.0
    for task in task_names(series):
        top += GAP / 2
        ranks = [rank for rank, results in enumerate(series) if task in results]
        placed[task] = [Line(r, top + (i + 0.5) * LINE, series[r][task]) for i, r in enumerate(ranks)]
        top += LINE * len(ranks) + GAP / 2
    return placed, top


def success_chart(series: Sequence[Series]) -> str:
    """Success rate of each task as a bar with its 95% interval; one bar per evaluation."""
    placed, bottom = lines(series)
    parts = [grid(bottom, [(tick, f"{tick}%") for tick in (0, 25, 50, 75, 100)], 100)]
    for task, group in placed.items():
        parts += [label(task, group), *map(success_bar, group)]
    return svg(parts, bottom + FOOT, "Success rate of each task with its 95% interval")


def success_bar(line: Line) -> str:
    """One bar, its interval as a whisker, and the rate in numbers."""
    result, middle = line.result, line.middle
    low, high = (LABELS + AXIS * bound for bound in result.ci95)
    width = max(1.0, AXIS * result.success_rate)
    return (
        f'<g class="s{line.rank % SERIES}"><title>{result.successes} of {result.episodes} episodes succeed</title>'
        f'<rect x="{LABELS}" y="{middle - 5:.1f}" width="{width:.1f}" height="10" rx="2"/>'
        f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 3:.1f}v6'
        f'M{high:.1f} {middle - 3:.1f}v6"/></g>' + number(f"{result.success_rate:.0%}", middle)
    )


def steps_chart(series: Sequence[Series]) -> str:
    """Actions that each successful episode took, one dot per episode, and their mean."""
    placed, bottom = lines(series)
    episodes = [episode for group in placed.values() for line in group for episode in line.result.results]
    most = nice_ceiling(max((episode.steps for episode in episodes if episode.success), default=100))
    parts = [grid(bottom, [(most * tick / 4, f"{most * tick / 4:g}") for tick in range(5)], most)]
    for task, group in placed.items():
        parts += [label(task, group), *(step_dots(line, most) for line in group)]
    return svg(parts, bottom + FOOT, "Actions until success, one dot per successful episode")


def step_dots(line: Line, most: float) -> str:
    """The successful episodes of one task, and their mean as a stroke with its number."""
    mean, middle = line.result.mean_steps_to_success, line.middle
    if mean is None:
        return number("none", middle)
    dots = "".join(
        f'<circle cx="{LABELS + AXIS * episode.steps / most:.1f}" cy="{middle:.1f}" r="3"/>'
        for episode in line.result.results
        if episode.success
    )
    stroke = f'<path class="whisker" d="M{LABELS + AXIS * mean / most:.1f} {middle - 5:.1f}v10"/>'
    return f'<g class="s{line.rank % SERIES} dots">{dots}{stroke}</g>' + number(f"{mean:.1f}", middle)


def latency_chart(latencies_ms: Sequence[Sequence[float]], budget_ms: float) -> str:
    """How long the policy took to answer: one histogram per evaluation on one axis, and the time there is.

    The axis ends at the 99.5th percentile or the budget, whichever is longer; slower answers count in the last bin.
    """
    slowest = max([budget_ms, *(float(np.percentile(values, 99.5)) for values in latencies_ms)])
    most = nice_ceiling(slowest * 1.02)
    bottom = float(HISTOGRAM * len(latencies_ms))
    parts = [grid(bottom, [(most * tick / 4, f"{most * tick / 4:g} ms") for tick in range(5)], most)]
    parts += [histogram(values, rank, most) for rank, values in enumerate(latencies_ms)]
    x = LABELS + AXIS * budget_ms / most
    parts.append(f'<path class="budget" d="M{x:.1f} 0V{bottom:.1f}"><title>one control period</title></path>')
    return svg(parts, bottom + FOOT, "Milliseconds the policy took to answer")


def histogram(values: Sequence[float], rank: int, most: float) -> str:
    """One evaluation's answer times from 0 to `most`, its tallest bin as high as there is room, and two percentiles."""
    counts = np.histogram(np.minimum(values, most), bins=BINS, range=(0, most))[0]
    foot, tall, wide = HISTOGRAM * (rank + 1) - 9, HISTOGRAM - 18, AXIS / BINS
    bars = "".join(
        f'<rect x="{LABELS + i * wide + 0.5:.1f}" y="{foot - tall * share:.1f}" width="{wide - 1:.1f}" '
        f'height="{tall * share:.1f}"/>'
        for i, share in enumerate(counts / counts.max())
        if share
    )
    percentiles = "".join(
        f'<text class="ink" x="0" y="{foot - 28 + 17 * i}">p{p} {np.percentile(values, p):.1f} ms</text>'
        for i, p in enumerate((50, 99))
    )
    return f'<g class="s{rank % SERIES}">{bars}</g><path class="rule" d="M{LABELS} {foot}h{AXIS}"/>{percentiles}'


def grid(bottom: float, ticks: Sequence[tuple[float, str]], most: float) -> str:
    """Vertical rules at the ticks, from the top to `bottom`, with their labels below."""
    parts: list[str] = []
    for at, text in ticks:
        x = LABELS + AXIS * at / most
        parts.append(f'<path class="rule" d="M{x:.1f} 0V{bottom:.1f}"/>')
        parts.append(f'<text class="faint" x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def label(task: str, group: Sequence[Line]) -> str:
    """A task's name, level with the middle of its lines."""
    return f'<text class="ink" x="0" y="{(group[0].middle + group[-1].middle) / 2 + 4:.1f}">{escape(task)}</text>'


def number(text: str, middle: float) -> str:
    """A figure at the right end of a line."""
    return f'<text class="ink" x="{WIDTH}" y="{middle + 4:.1f}" text-anchor="end">{text}</text>'


def task_names(series: Sequence[Series]) -> list[str]:
    """All tasks of all evaluations, in order of first appearance."""
    return list(dict.fromkeys(task for results in series for task in results))
