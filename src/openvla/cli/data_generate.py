"""`openvla data generate`: expert demonstrations, recorded as an RLDS data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openvla.cli.output import Result, table
from openvla.sim.metaworld import IMAGE_SIZE


@dataclass(frozen=True)
class Options:
    """Record expert demonstrations as an RLDS data set. Episodes in which the expert fails are dropped and counted."""

    output: Path
    """Directory to write the data set to; its version directory must not exist yet."""
    suite: str = "metaworld"
    """The simulator's set of tasks."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks, e.g. door-open drawer-close; where omitted, those the shipped policy is trained on."""
    episodes: int = 50
    """Successful episodes per task."""
    seed: int = 0
    """Start of the first episode of each task; the following ones count up."""
    noise: float = 0.0
    """Disturb half of the episodes by this standard deviation, in action units, so that recoveries are seen too."""
    gain: float = 1.0
    """Multiplies the expert's motion; below 1 it is softer and overshoots less."""
    image_size: int = IMAGE_SIZE
    """Pixels a side of the recorded camera images."""
    workers: int = 1
    """Simulators to run side by side."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Record, write, and hand back where the data set is and what was dropped."""
    from openvla.data.recording import record_dataset

    recorded = record_dataset(
        options.output,
        options.suite,
        options.tasks or None,
        options.episodes,
        seed=options.seed,
        noise=options.noise,
        image_size=options.image_size,
        workers=options.workers,
        gain=options.gain,
    )
    data = {
        "directory": recorded.directory,
        "episodes": recorded.episodes,
        "steps": recorded.steps,
        "dropped": recorded.dropped,
        "seed": options.seed,
    }
    lines = [
        table(("task", "recorded", "dropped"), [(task, options.episodes, n) for task, n in recorded.dropped.items()]),
        "",
        f"{recorded.episodes} episodes, {recorded.steps} steps; failed episodes of the expert are dropped",
        str(recorded.directory),
    ]
    return Result(data, "\n".join(lines))
