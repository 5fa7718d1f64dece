"""The report of `data doctor` as one HTML page: findings with remedies, a grid of frames, histograms of the actions.

Shapes: H x W pixels, A action dimensions.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.data.doctor.account import Account
from openvla.data.doctor.findings import Finding, finite
from openvla.report.page import document, section, table
from openvla.report.svg import WIDTH, svg

THUMBNAIL = 170  # pixels a side
LABELS = 130  # pixels left of the histograms
HISTOGRAM = 54  # pixels for one dimension
BINS = 60
SERIES = {"error": 4, "warning": 1, "note": 0, "ok": 2}
"""The colour of each severity."""
LENGTHS = "Steps of the episodes, in the order of reading; the line is the mean."


def page(verdict: str, findings: Sequence[Finding], account: Account) -> str:
    """The whole document."""
    name, _, rest = verdict.partition(": ")
    sections = [
        section("Findings", "The gravest first, each with what to do.", finding_list(findings)),
        section("Frames", "The middle frame of episodes spread over the data set.", grid(account)),
        section("Actions", "Values from minimum to maximum; dashed: the 1 % and 99 % quantiles.", actions(account)),
        section("Episode length", LENGTHS, lengths(account)),
        section("Instructions", "", spoken(account)),
    ]
    return document(f"Data set {name}", [rest], sections)


def finding_list(findings: Sequence[Finding]) -> str:
    """Every finding as a paragraph: severity, what was found, the remedy, examples."""
    parts: list[str] = []
    for finding in findings:
        remedy = f'<br><span class="faint">remedy: {escape(finding.remedy)}</span>' if finding.remedy else ""
        where = "".join(f'<br><span class="faint">{escape(each)}</span>' for each in finding.where)
        parts.append(
            f'<p><b class="key s{SERIES[finding.severity]}" style="background:none">{finding.severity}</b> '
            f"<b>{escape(finding.name)}</b>: {escape(finding.text)}{remedy}{where}</p>"
        )
    return "".join(parts)


def grid(account: Account) -> str:
    """Small pictures with their instructions."""
    figures = [
        f'<figure><img alt="" width="{THUMBNAIL}" src="{_inline(image)}"><figcaption>{escape(words)}</figcaption>'
        "</figure>"
        for words, image in account.frames
    ]
    return f'<div class="films">{"".join(figures)}</div>' if figures else "<p>no frames</p>"


def actions(account: Account) -> str:
    """One histogram per action dimension, one below the other."""
    values = finite(account.actions)
    if not len(values):
        return "<p>no actions</p>"
    parts = [_histogram(values[:, n], n) for n in range(values.shape[1])]
    return svg(parts, HISTOGRAM * len(parts) + 8, "Histogram of every action dimension")


def lengths(account: Account) -> str:
    """The length of every episode as a bar; many episodes share a bar, then their longest counts."""
    held = np.array([episode.length for episode in account.episodes])
    parts = np.array_split(held, min(len(held), 300))
    tallest, wide = int(held.max()), (WIDTH - LABELS) / len(parts)
    heights = [80 * int(part.max()) / tallest for part in parts]
    bars = "".join(
        f'<rect x="{LABELS + i * wide:.1f}" y="{90 - high:.1f}" width="{max(wide - 0.5, 0.5):.1f}" '
        f'height="{high:.1f}"/>'
        for i, high in enumerate(heights)
    )
    mean = 90 - 80 * held.mean() / tallest
    text = f'<text class="ink" x="0" y="22">longest {tallest}</text><text class="ink" x="0" y="40">mean '
    line = f'<path class="budget" d="M{LABELS} {mean:.1f}H{WIDTH}"/>'
    return svg([f'<g class="s0">{bars}</g>', line, text, f"{held.mean():.1f}</text>"], 96, "Steps of every episode")


def spoken(account: Account) -> str:
    """The most frequent instructions."""
    rows = account.spoken.most_common(50)
    return table(["instruction", "episodes"], rows, ["instruction"]) if rows else "<p>none</p>"


def _histogram(values: NDArray[np.float32], number: int) -> str:
    counts, edges = np.histogram(values, bins=BINS)
    foot, tall, wide = HISTOGRAM * (number + 1) - 8, HISTOGRAM - 16, (WIDTH - LABELS) / BINS
    heights = np.sqrt(counts / counts.max())  # so that rare values show beside the idle ones
    bars = "".join(
        f'<rect x="{LABELS + i * wide + 0.5:.1f}" y="{foot - tall * height:.1f}" width="{wide - 1:.1f}" '
        f'height="{tall * height:.1f}"/>'
        for i, height in enumerate(heights)
        if height
    )
    width = float(edges[-1] - edges[0]) or 1.0
    places = [
        LABELS + (WIDTH - LABELS) * (float(q) - float(edges[0])) / width for q in np.quantile(values, [0.01, 0.99])
    ]
    marks = "".join(f'<path class="budget" d="M{x:.1f} {foot - tall:.1f}V{foot}"/>' for x in places)
    text = (
        f'<text class="ink" x="0" y="{foot - 22}">dimension {number}</text>'
        f'<text class="faint" x="0" y="{foot - 6}">{values.min():.3g} to {values.max():.3g}</text>'
    )
    return f'<g class="s{number % 6}">{bars}</g><path class="rule" d="M{LABELS} {foot}H{WIDTH}"/>{marks}{text}'


def _inline(image: NDArray[np.uint8]) -> str:
    """A small JPEG inside the page."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
