"""`openvla train --report RUN ...`: the curves of training runs as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvla.cli.output import Result


@dataclass(frozen=True)
class ReportOptions:
    """Draw the curves of one or several training runs, overlaid, as an HTML page that opens anywhere."""

    report: tuple[Path, ...]
    """Directories of the runs: what was given to them as --output."""
    output: Path | None = None
    """The page to write; report.html in the first of the directories where omitted."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run_report(options: ReportOptions) -> Result:
    """Draw, and hand back where the page is."""
    from openvla.errors import UsageError
    from openvla.train.report import write_report

    if not options.report:
        raise UsageError("--report needs the directory of at least one run; name it")
    path = write_report(options.report, options.output or options.report[0] / "report.html")
    return Result({"report": path}, f"report: {path.resolve()}")
