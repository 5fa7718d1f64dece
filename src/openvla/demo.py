"""The whole path in a few minutes on two cores: a policy acts, learns a task it has never seen, and is measured.

The shipped policy plays its own tasks; experts demonstrate another one; low-rank adapters are trained on that; success
on the new task is measured before and after. Everything is real: the simulator, the training, the starts, which no
demonstration has used. One HTML report shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from openvla.data.recording import record_dataset
from openvla.errors import UsageError
from openvla.infer.policy import load_policy
from openvla.sim.evaluation import Evaluation
from openvla.sim.report import write_report
from openvla.sim.rollout import evaluate
from openvla.sim.tasks import DEFAULT_TASKS
from openvla.train.config import TrainConfig
from openvla.train.loop import train

SUITE = "metaworld"
NEW_TASK = "handle-press"


@dataclass(frozen=True)
class DemoConfig:
    """How much of everything; the defaults take about six minutes on two cores."""

    output: Path
    """Directory for data, checkpoints, videos and the report; must not exist."""
    known_tasks: tuple[str, ...] = DEFAULT_TASKS
    """Tasks of the shipped policy to show."""
    known_episodes: int = 2
    """Episodes of each."""
    demonstrations: int = 40
    """Expert episodes of the new task to learn from."""
    steps: int = 250
    """Training steps on them."""
    episodes: int = 20
    """Episodes of the new task, before and after."""
    workers: int = 2
    """Simulators side by side."""


@dataclass(frozen=True)
class DemoResult:
    """report: the HTML page. known, before, after: the three evaluations it shows."""

    report: Path
    known: Evaluation
    before: Evaluation
    after: Evaluation


def run_demo(config: DemoConfig, checkpoint: str = "nano") -> DemoResult:
    """Run the demonstration. Raises UsageError where the output exists, SimulatorError where nothing can be drawn."""
    output = config.output
    if output.exists():
        raise UsageError(f"{output} exists already; remove it or choose another output")
    known = _measure(config, checkpoint, "1-known", config.known_tasks, config.known_episodes)
    before = _measure(config, checkpoint, "2-before", [NEW_TASK], config.episodes)
    data = output / "3-demonstrations"
    record_dataset(data, SUITE, [NEW_TASK], config.demonstrations, noise=0.5, gain=0.5, workers=config.workers)
    trained = train(
        TrainConfig(
            data=data,
            output=output / "4-training",
            checkpoint=checkpoint,
            method="lora",
            rank=32,
            steps=config.steps,
            batch_size=32,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_ratio=0.1,
            validate_every=config.steps,
            save_every=config.steps,
        )
    )
    after = _measure(config, str(trained.final), "5-after", [NEW_TASK], config.episodes)
    report = write_report(
        output / "report.html",
        {"known tasks": known, "new task before": before, "new task after": after},
        f"A new task: {before.success_rate:.0%} before, {after.success_rate:.0%} after fine-tuning",
        notes=_notes(config, known, before),
    )
    return DemoResult(report, known, before, after)


def _measure(config: DemoConfig, checkpoint: str, name: str, tasks: Sequence[str], episodes: int) -> Evaluation:
    return evaluate(
        partial(load_policy, checkpoint, device="cpu"),
        SUITE,
        tasks=tasks,
        episodes=episodes,
        workers=config.workers,
        output=config.output / name,
    )


def _notes(config: DemoConfig, known: Evaluation, before: Evaluation) -> list[str]:
    instruction = before.tasks[NEW_TASK].instruction
    return [
        f"The policy sees one camera image and reads one sentence. It was trained on {len(known.tasks)} tasks, and "
        f"acts in them here from {config.known_episodes} starts each that it has not seen.",
        f"The new task, “{instruction}”, was not among them. An expert showed it {config.demonstrations} times; "
        f"low-rank adapters were trained on that for {config.steps} steps.",
    ]
