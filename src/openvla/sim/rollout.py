"""Closed-loop evaluation: seeded episodes of a policy in a simulator, in worker processes, counted per task.

Episode i of every task starts from seed `EVALUATION_SEED + seed + i`. So two policies meet the same starts, and the
result depends on neither the number of workers nor the order in which they finish.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from tqdm import tqdm

from openvla.errors import InputError, UsageError
from openvla.files import made_directory, write_text
from openvla.sim import player
from openvla.sim.circumstances import circumstances
from openvla.sim.evaluation import EpisodeResult, Evaluation, TaskResult
from openvla.sim.metaworld import IMAGE_SIZE
from openvla.sim.player import Job
from openvla.sim.report import write_report
from openvla.sim.seeds import evaluation_seeds
from openvla.sim.suites import SUITES, instructions
from openvla.sim.workers import each, executor
from openvla.spec import Policy


def evaluate(
    policy: Policy | Callable[[], Policy],
    suite: str = "metaworld",
    *,
    tasks: Sequence[str] | None = None,
    episodes: int = 25,
    workers: int = 1,
    seed: int = 0,
    output: str | Path | None = None,
    videos_per_task: int = 2,
    instruct: Mapping[str, str] | None = None,
    image_size: int = IMAGE_SIZE,
) -> Evaluation:
    """Run `episodes` seeded episodes of each task and count successes.

    policy: a Policy, or a function without arguments that makes one; with more than one worker only the latter, which
        must be picklable and is called once in each process.
    tasks: names in the suite; by default those that the shipped policy is trained on.
    seed: shifts the seeds of all episodes; demonstrations never use any of them.
    output: directory for results.json, report.html and videos/ of the first `videos_per_task` episodes of each task.
    instruct: instructions to give instead of the tasks' own, by task: a probe of whether the policy listens.
    image_size: pixels a side of the camera image that the policy sees.

    Raises UsageError for an unknown suite or task or an output that cannot be written, InputError for a policy whose
    actions are not this robot's, SimulatorError where the simulator cannot run or a worker dies. An error of the
    policy itself ends the run as it is.
    """
    told = instructions(suite, tasks if tasks is None else tuple(tasks), instruct or {})
    if episodes < 1:
        raise InputError(f"{episodes} episodes per task evaluate nothing; give a number from 1")
    seeds = evaluation_seeds(seed, episodes)
    factory = as_factory(policy, workers)
    directory = None if output is None else Path(output)
    films = None if directory is None or videos_per_task < 1 else directory / "videos"
    jobs = [
        Job(suite, task, start, words, image_size, films if start - seeds[0] < videos_per_task else None)
        for task, words in told.items()
        for start in seeds
    ]
    began = time.perf_counter()
    with contextlib.nullcontext() if directory is None else made_directory(films or directory, UsageError):
        results = run(jobs, factory, workers)
    evaluation = Evaluation(
        suite=suite,
        tasks={task: TaskResult(words, tuple(r for r in results if r.task == task)) for task, words in told.items()},
        control_hz=SUITES[suite].spec.control_hz,
        duration_s=time.perf_counter() - began,
        directory=directory,
        circumstances=circumstances(seed=seed, workers=workers, image_size=image_size),
    )
    if directory is not None:
        save(evaluation, directory)
    return evaluation


def as_factory(policy: object, workers: int) -> Callable[[], Policy]:
    """`policy` as a function that makes it, or InputError where it is none or cannot reach the workers."""
    advice = "give a function at the top level of a module, or a functools.partial of one, or workers=1"
    if isinstance(policy, Policy) and not isinstance(policy, type):
        if workers > 1:
            raise InputError(f"a {type(policy).__name__} cannot be shared by {workers} worker processes; {advice}")
        return lambda: policy
    if not callable(policy):
        raise InputError(f"a {type(policy).__name__} is no policy; give an object with spec, act, act_batch and reset")
    if workers > 1:
        try:
            pickle.dumps(policy)
        except Exception as error:  # pickle raises whatever the object's own code raises
            raise InputError(f"the policy factory cannot be sent to worker processes ({error}); {advice}") from error
    return cast("Callable[[], Policy]", policy)


def run(jobs: Sequence[Job], factory: Callable[[], Policy], workers: int) -> list[EpisodeResult]:
    """The results of all jobs, in the order of the jobs, with a progress bar on stderr."""
    results: list[EpisodeResult] = []
    try:
        with (
            executor(workers, player.install, (factory,)) as pool,
            tqdm(total=len(jobs), unit="episode", desc="evaluating", file=sys.stderr) as bar,
        ):
            for result in each(pool, player.play, jobs):
                results.append(result)
                bar.set_postfix_str(f"{sum(r.success for r in results)} succeeded", refresh=False)
                bar.update()
    finally:
        player.remove()
    return results


def save(evaluation: Evaluation, directory: Path) -> None:
    """Write results.json and report.html."""
    write_text(directory / "results.json", json.dumps(evaluation.to_dict(), indent=2) + "\n", UsageError)
    title = f"{evaluation.suite}: {evaluation.success_rate:.0%} of episodes succeed"
    write_report(directory / "report.html", evaluation, title)
