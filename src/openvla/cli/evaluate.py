"""`openvla eval`: success in closed loop, in a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openvla.cli.output import Result, table

if TYPE_CHECKING:
    from openvla.sim.evaluation import Evaluation


@dataclass(frozen=True)
class Options:
    """Play seeded episodes in closed loop and measure success per task, with 95 % intervals."""

    checkpoint: str
    """A hub id, a checkpoint directory, or a shipped name such as "nano"."""
    suite: str = "metaworld"
    """The simulator's set of tasks."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks; where omitted, those that the shipped policy is trained on."""
    episodes: int = 25
    """Episodes per task."""
    workers: int = 1
    """Processes that play side by side, each with its own simulator and policy."""
    seed: int = 0
    """Shifts the starts of all episodes; demonstrations never use any of them."""
    output: Path | None = None
    """Directory for results.json, videos and an HTML report; nothing is written where omitted."""
    swap_instructions: bool = False
    """Give each task another task's instruction: a policy that listens fails."""
    statistics: str | None = None
    """Key of the data set whose statistics scale the action; may be omitted where the checkpoint has one."""
    quantize: Literal["int8", "int4", "fp8"] | None = None
    """Hold the weights in fewer bits; this version refuses all of them."""
    device: str = "auto"
    """Where the policy computes: auto, cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Evaluate, and hand back the evaluation."""
    from openvla.errors import lookup
    from openvla.infer.policy import load_policy
    from openvla.sim.probe import swapped_instructions
    from openvla.sim.rollout import evaluate
    from openvla.sim.suites import SUITES

    suite = lookup(options.suite, SUITES, "suite")
    tasks = options.tasks or suite.default
    settings = {"statistics": options.statistics, "device": options.device, "quantize": options.quantize}
    evaluation = evaluate(
        partial(load_policy, options.checkpoint, **settings),
        options.suite,
        tasks=tasks,
        episodes=options.episodes,
        workers=options.workers,
        seed=options.seed,
        output=options.output,
        instruct=swapped_instructions(suite.instructions, tasks) if options.swap_instructions else None,
    )
    return Result(evaluation.to_dict(), _readable(evaluation, options.output))


def _readable(evaluation: Evaluation, output: Path | None) -> str:
    rows: list[tuple[object, ...]] = [
        (name, task.instruction, *_rate(task.success_rate, task.ci95), _steps(task.mean_steps_to_success))
        for name, task in evaluation.tasks.items()
    ]
    rows.append(("all", "", *_rate(evaluation.success_rate, evaluation.ci95), "-"))
    latency = f"{evaluation.latency_ms(50):.1f} ms median, {evaluation.latency_ms(99):.1f} ms for the slowest 1 %"
    lines = [
        table(("task", "instruction", "success", "from", "to", "steps"), rows),
        "",
        f"{len(evaluation.results)} episodes in {evaluation.duration_s:.0f} s; one action takes {latency}",
        *([] if output is None else [str(output / "report.html")]),
    ]
    return "\n".join(lines)


def _rate(rate: float, interval: tuple[float, float]) -> tuple[str, str, str]:
    return f"{rate:.0%}", f"{interval[0]:.0%}", f"{interval[1]:.0%}"


def _steps(steps: float | None) -> str:
    return "-" if steps is None else f"{steps:.0f}"
