"""Examine a data set: read every episode once, answer the questions of `findings`, write a report.

Episodes that cannot be read are counted as a finding rather than ending the examination. The report is one HTML page
that opens anywhere and the same as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openvla.codec.codec import Codec
from openvla.data.bad import SHOWN, BadData
from openvla.data.doctor.account import Account
from openvla.data.doctor.findings import ERROR, OK, SEVERITIES, Finding, findings, finite
from openvla.data.doctor.page import page
from openvla.data.doctor.parity import parity
from openvla.data.doctor.standardised import standardised
from openvla.data.episode import Episode
from openvla.data.formats.source import Source
from openvla.data.registry.record import DataRecord
from openvla.errors import DataError
from openvla.files import made_directory, write_text

BINS = 40


@dataclass(frozen=True)
class Diagnosis:
    """The outcome. findings: the gravest first; histograms: per action dimension counts and the edges' ends."""

    name: str
    format: str
    splits: dict[str, int]
    control_hz: float
    findings: list[Finding]
    account: Account = field(repr=False)

    def count(self, severity: str) -> int:
        """How many findings are of that severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line."""
        counts = [f"{self.count(severity)} {severity}" for severity in SEVERITIES if self.count(severity)]
        return f"{self.name}: {len(self.account.episodes)} episodes, {self.account.steps} steps; {', '.join(counts)}"

    def to_dict(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "name": self.name,
            "format": self.format,
            "splits": self.splits,
            "control_hz": self.control_hz or None,
            "episodes": len(self.account.episodes),
            "steps": self.account.steps,
            "findings": [finding.to_dict() for finding in self.findings],
            "action": histograms(self.account),
            "instructions": dict(self.account.spoken.most_common()),
        }


def diagnose(
    source: Source,
    *,
    split: str = "all",
    control_hz: float = 0.0,
    codec: Codec | None = None,
    record: DataRecord | None = None,
    progress: Callable[[Iterable[Episode]], Iterable[Episode]] = iter,
) -> Diagnosis:
    """Read `split` of the data set and judge it.

    control_hz: 0 takes what the data say, or else the record. codec: of the policy whose view of the frames is checked.
    record: makes the action and the words that are judged, and names the camera; None takes `action` as it is stored.
    Raises DataError where not one episode can be used.
    """
    bad, account = BadData("skip"), Account()
    for episode in progress(source.episodes(split, bad)):
        try:
            account.add(episode if record is None else standardised(episode, record))
        except DataError as error:
            bad.report(error)
    if not account.episodes:
        reason = f": {bad.skipped[0]}" if bad.skipped else ""
        raise DataError(f"{source.path} has no usable episode in {split!r}{reason}")
    hz = control_hz or source.control_hz or (record.action.control_hz if record is not None else 0.0)
    found = [*findings(account, hz), parity(account.samples, codec), _unusable(bad)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(source.name, source.format, dict(source.splits), hz, found, account)


def write_report(directory: Path, diagnosis: Diagnosis) -> Path:
    """Write report.html and report.json to `directory` and return the page's path. Raises DataError."""
    with made_directory(directory, DataError):
        content = json.dumps(_finite_json(diagnosis.to_dict()), indent=2, allow_nan=False)
        write_text(directory / "report.json", content + "\n", DataError)
        write_text(directory / "report.html", page(diagnosis.verdict, diagnosis.findings, diagnosis.account), DataError)
    return directory / "report.html"


def histograms(account: Account) -> list[dict[str, Any]]:
    """Per action dimension its range, quantiles and a histogram from minimum to maximum."""
    actions = finite(account.actions)
    found: list[dict[str, Any]] = []
    for values in actions.T if len(actions) else ():
        low, high = np.quantile(values, [0.01, 0.99])
        counts = np.histogram(values, bins=BINS)[0]
        found.append(
            {
                "min": float(values.min()),
                "q01": float(low),
                "mean": float(values.mean(dtype=np.float64)),
                "q99": float(high),
                "max": float(values.max()),
                "histogram": counts.tolist(),
            }
        )
    return found


def _unusable(bad: BadData) -> Finding:
    count = len(bad.skipped)
    if not count:
        return Finding("unreadable episodes", OK, 0, "every episode can be read")
    text = f"{count} episodes cannot be used"
    remedy = "mend or remove them; training and conversion stop there, or leave them out with --on-bad skip"
    return Finding("unreadable episodes", ERROR, count, text, remedy, tuple(bad.skipped[:SHOWN]))


def _finite_json(value: Any) -> Any:
    """`value` with NaN and infinity replaced by null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
