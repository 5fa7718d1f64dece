"""`openvla demo`: the whole path, from acting to learning to measuring."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from openvla.cli.output import Result


@dataclass(frozen=True)
class Options:
    """Watch the shipped policy act, teach it a new task, and measure it before and after."""

    output: Path | None = None
    """Directory for data, checkpoints, videos and the report; must not exist. A new one below demo/ where omitted."""
    workers: int = 2
    """Simulators side by side."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Run it, and hand back the rates and the path of the report."""
    from openvla.demo import DemoConfig, run_demo

    output = options.output or Path("demo") / time.strftime("%Y-%m-%d-%H-%M-%S")
    result = run_demo(DemoConfig(output=output, workers=options.workers))
    data = {
        "report": str(result.report),
        "known": result.known.to_dict(),
        "before": result.before.to_dict(),
        "after": result.after.to_dict(),
    }
    text = (
        f"{len(result.known.tasks)} known tasks: {result.known.success_rate:.0%} of episodes succeed\n"
        f"a new task: {result.before.success_rate:.0%} before, {result.after.success_rate:.0%} after fine-tuning\n"
        f"report: {result.report.resolve()}"
    )
    return Result(data, text)
