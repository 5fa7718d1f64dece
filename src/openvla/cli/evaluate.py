"""`openvla eval`: success in closed loop, in a simulator."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openvla.cli.output import Result, table
from openvla.errors import UsageError

if TYPE_CHECKING:
    from openvla.sim.evaluation import Evaluation
    from openvla.spec import Policy


@dataclass(frozen=True)
class Options:
    """Play seeded episodes in closed loop and measure success per task, with 95 % intervals."""

    checkpoint: str | None = None
    """A hub id, a checkpoint directory, or a shipped name such as "nano"."""
    server: str | None = None
    """Instead of a checkpoint, the address of a policy server, e.g. http://host:8000; its key in OPENVLA_API_KEY."""
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
    """Hold the decoder's weights in fewer bits: faster, and answers differ a little; fp8 needs a GPU that has it."""
    device: str = "auto"
    """Where the policy computes: auto, cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Evaluate, and hand back the evaluation."""
    from openvla.errors import lookup
    from openvla.sim.probe import swapped_instructions
    from openvla.sim.rollout import evaluate
    from openvla.sim.suites import SUITES

    suite = lookup(options.suite, SUITES, "suite")
    tasks = options.tasks or suite.default
    evaluation = evaluate(
        policy_factory(options),
        options.suite,
        tasks=tasks,
        episodes=options.episodes,
        workers=options.workers,
        seed=options.seed,
        output=options.output,
        instruct=swapped_instructions(suite.instructions, tasks) if options.swap_instructions else None,
    )
    return Result(evaluation.to_dict(), _readable(evaluation, options.output))


def policy_factory(options: Options) -> Callable[[], Policy]:
    """What makes the policy, in every worker: a checkpoint, or a server. Raises UsageError unless one is named."""
    if (options.checkpoint is None) == (options.server is None):
        raise UsageError("name what to evaluate: either --checkpoint, or --server with the address of a policy server")
    if options.server is not None:
        from openvla.serve.client import RemotePolicy

        key = os.environ.get("OPENVLA_API_KEY")
        return partial(RemotePolicy, options.server, statistics=options.statistics, api_key=key, retries=3)
    from openvla.infer.policy import load_policy

    settings = {"statistics": options.statistics, "device": options.device, "quantize": options.quantize}
    return partial(load_policy, options.checkpoint, **settings)


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
