"""The curves of one or several training runs as one HTML page that opens anywhere.

Runs stand in the same charts, each in its colour. Only metrics.jsonl is read, so a run may still be going on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from openvla.errors import UsageError
from openvla.files import write_text
from openvla.report.curves import COLOURS, Curve, curves_chart
from openvla.report.page import document, section, table
from openvla.train.sinks import METRICS

Points = list[tuple[float, float]]

HEADLINES = {
    "loss": ("Loss", "Mean cross-entropy of the supervised tokens."),
    "action_token_accuracy": ("Token accuracy", "Share of action tokens that are exactly right."),
    "l1_normalized": ("L1", "Mean distance to the recorded action, in units where the range of the data is -1 to 1."),
    "gripper_f1": ("Gripper F1", "Of closing the gripper: harmonic mean of precision and recall."),
    "language_loss": ("Language loss", "Mean cross-entropy of what conversations about images say."),
    "language_token_accuracy": ("Language accuracy", "Share of their tokens that are exactly right."),
}
"""Charts of their own: heading and explanation."""

PACE = ("learning_rate", "gradient_norm", "samples_per_s", "mfu", "data_wait_fraction", "peak_resident_bytes")


def write_report(runs: Sequence[Path], path: Path) -> Path:
    """Write the page about the runs in these directories and return its path.

    Raises UsageError for a directory without metrics, and where the file cannot be written.
    """
    if not runs:
        raise UsageError("a report needs the directory of at least one run; name it")
    write_text(path, page({name: read_metrics(run) for name, run in _named(runs).items()}), UsageError)
    return path


def read_metrics(run: Path) -> dict[str, Points]:
    """What a run has logged, by name, in order; a line that is being written is left out.

    Raises UsageError where nothing was logged yet.
    """
    try:
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{run} holds no readable {METRICS}; give the --output directory of a training run") from error
    found: dict[str, Points] = {}
    for line in lines:
        for name, point in _points(line):
            found.setdefault(name, []).append(point)
    if not found:
        raise UsageError(f"{run / METRICS} holds no metrics yet; wait for the first log line of the run")
    return found


def page(runs: Mapping[str, Mapping[str, Points]]) -> str:
    """The whole document. runs: metrics by the name of the run."""
    names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))
    sections = [_keys(runs)]
    for metric, (heading, explanation) in HEADLINES.items():
        if f"train/{metric}" in names or f"validation/{metric}" in names:
            sections.append(section(heading, explanation, _chart(runs, metric, heading)))
    details = dict.fromkeys(_plain(name) for name in names if name.count("/") > 1)
    dimensions = [name for name in details if name.startswith(("l1_", "action_token_accuracy/"))]
    units = [name for name in dimensions if name.startswith("l1_physical/")]
    sections.append(_grid(runs, "By dimension", "Mean distance in the units of the robot.", units))
    data_sets = [name for name in details if name not in dimensions and name.endswith(("_accuracy", "/loss", "_f1"))]
    sections.append(_grid(runs, "By data set", "", data_sets))
    pace = [name for name in PACE if {f"train/{name}", f"perf/{name}"} & set(names)]
    sections.append(_grid(runs, "Optimiser and machine", "", pace))
    sections.append(section("Last values", "", table(["metric", *runs], _last(runs, names), ["metric"])))
    return document("Training", ["Solid: frames that were trained on. Dashed: frames that were held out."], sections)


def _keys(runs: Mapping[str, Mapping[str, Points]]) -> str:
    """A card for each run: where it is, and its colour."""
    cards: list[str] = []
    for number, (name, metrics) in enumerate(runs.items()):
        step = max(points[-1][0] for points in metrics.values())
        loss = metrics.get("train/loss")
        head = f"{loss[-1][1]:.4g}" if loss else "-"
        cards.append(
            f'<div class="card"><span class="key s{number % COLOURS}">{escape(name)}</span>'
            f"<strong>{head}</strong><small>loss at step {step:g}</small></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _chart(runs: Mapping[str, Mapping[str, Points]], metric: str, description: str) -> str:
    curves: list[Curve] = []
    for number, (name, metrics) in enumerate(runs.items()):
        for kind in ("train", "perf", "validation"):
            points = metrics.get(f"{kind}/{metric}", [])
            curves.append(Curve(f"{name}, {kind}", points, number, kind == "validation"))
    return curves_chart(curves, description)


def _grid(runs: Mapping[str, Mapping[str, Points]], heading: str, explanation: str, metrics: Sequence[str]) -> str:
    if not metrics:
        return ""
    figures = [
        f"<figure>{_chart(runs, name, name)}<figcaption><b>{escape(name)}</b></figcaption></figure>" for name in metrics
    ]
    return section(heading, explanation, f'<div class="curves">{"".join(figures)}</div>')


def _last(runs: Mapping[str, Mapping[str, Points]], names: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for name in names:
        ends = [metrics[name][-1][1] if name in metrics else None for metrics in runs.values()]
        rows.append([name, *("-" if end is None else shown(end, 6) for end in ends)])
    return rows


def shown(value: float, digits: int) -> str:
    """A measured value with `digits` digits; a large count (parameters, bytes) with all.

    >>> shown(6925440, 4), shown(0.123456, 4), shown(float("nan"), 4)
    ('6,925,440', '0.1235', 'nan')
    """
    return f"{value:,.0f}" if abs(value) >= 10_000 and float(value).is_integer() else f"{value:.{digits}g}"


def _plain(name: str) -> str:
    """A metric without the kind of frames it was measured on."""
    return name.partition("/")[2]


def _points(line: str) -> list[tuple[str, tuple[float, float]]]:
    try:
        values: Any = json.loads(line)
        step = float(values.pop("step"))
        return [(name, (step, float(value))) for name, value in values.items() if math.isfinite(value)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _named(runs: Sequence[Path]) -> dict[str, Path]:
    """Directories by their last names, or whole where these are alike."""
    short = [run.resolve().name for run in runs]
    return {str(run) if short.count(name) > 1 else name: run for name, run in zip(short, runs, strict=True)}
