"""Demonstrations by Meta-World's scripted experts: what was seen, and what the expert does there.

With `noise`, half of the episodes execute the expert's action plus short pushes while the label stays what the expert
would do in the state so reached. A policy trained on them has seen its own small mistakes and how to
recover; from clean episodes it has not. With a `gain` below 1 the expert is softer: here an action is held for 62.5 ms,
five times as long as the experts were tuned for, so at gain 1 they overshoot and nearly all they say is -1 or 1.
Source: Laskey et al., "DART: Noise Injection for Robust Imitation Learning", 2017, section 4.

Shapes: T control steps; H = W = image size; 4 action and 4 proprio dimensions as in `metaworld`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, SimulatorError, lookup
from openvla.sim.metaworld import IMAGE_SIZE, SPEC, MetaWorld
from openvla.sim.seeds import training_seeds
from openvla.sim.tasks import TASKS
from openvla.sim.workers import executor

NOISY_EPISODES = 0.5
PUSH_PROBABILITY = 0.15  # at each step without a push
PUSH_STEPS = 3


@dataclass(frozen=True)
class Demonstration:
    """One episode of the expert; step t pairs what was seen with what to do about it.

    images: uint8 (T, H, W, 3), before each action.
    actions: float32 (T, 4), the expert's clean action in the units of `metaworld.SPEC`.
    proprio: float32 (T, 4), hand x, y, z in metres and the gripper's opening (1 open), before each action.
    """

    task: str
    instruction: str
    seed: int
    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    proprio: NDArray[np.float32]
    success: bool


class Recording(Iterator[Demonstration]):
    """The successful demonstrations in order; `failures` counts, by task, the episodes dropped so far."""

    def __init__(
        self, tasks: Sequence[str], episodes: int, seed: int, noise: float, image_size: int, workers: int, gain: float
    ):
        self.failures: dict[str, int] = dict.fromkeys(tasks, 0)
        self._allowed = 10 + episodes
        self._seeds = training_seeds(seed, episodes + self._allowed + 1)
        self._episodes, self._noise, self._image_size, self._workers = episodes, noise, image_size, workers
        self._gain = gain
        self._generator = self._run()

    def __next__(self) -> Demonstration:
        return next(self._generator)

    def close(self) -> None:
        """End the workers without recording the rest."""
        self._generator.close()

    def _run(self) -> Generator[Demonstration]:
        with executor(self._workers) as pool:
            try:
                for task in self.failures:
                    yield from self._run_task(pool, task)
            finally:
                release()

    def _run_task(self, pool: Executor, task: str) -> Iterator[Demonstration]:
        """The first `episodes` successes in the order of their seeds, whatever the number of workers."""
        seeds = iter(self._seeds)
        pending: deque[Future[Demonstration]] = deque()
        missing = self._episodes
        while missing:
            while len(pending) < min(missing, self._window):
                pending.append(pool.submit(demonstrate, task, next(seeds), self._noise, self._image_size, self._gain))
            demonstration = pending.popleft().result()
            if demonstration.success:
                missing -= 1
                yield demonstration
            else:
                self._count_failure(task, self._episodes - missing)

    @property
    def _window(self) -> int:
        return 1 if self._workers == 1 else 2 * self._workers

    def _count_failure(self, task: str, successes: int) -> None:
        self.failures[task] += 1
        if self.failures[task] > self._allowed:
            raise SimulatorError(
                f"the scripted expert of {task!r} failed {self.failures[task]} episodes and finished {successes} "
                f"with noise {self._noise:g}; lower the noise or leave the task out"
            )


def record(
    tasks: Sequence[str],
    episodes: int,
    *,
    seed: int,
    noise: float = 0.0,
    image_size: int = IMAGE_SIZE,
    workers: int = 1,
    gain: float = 1.0,
) -> Recording:
    """Record `episodes` successful demonstrations of each task, task by task, seeds `seed`, `seed + 1`, ...

    noise: standard deviation of the pushes on x, y and z, in action units (1.0 is 5 cm a step).
    gain: multiplies the expert's x, y and z.
    The result depends on `seed` and not on `workers`. Iterating raises SimulatorError where an expert keeps failing.
    Raises UsageError for an unknown task, InputError for numbers out of range or seeds kept for evaluation.
    """
    if not tasks:
        raise InputError(f"no task is given; name some of {', '.join(TASKS)}")
    for task in tasks:
        lookup(task, TASKS, "Meta-World task")
    if episodes < 1:
        raise InputError(f"{episodes} episodes per task record nothing; give a number from 1")
    if not (math.isfinite(noise) and noise >= 0.0):
        raise InputError(f"noise {noise} is not a standard deviation; give 0 or more, 0.5 is usual")
    if not (math.isfinite(gain) and gain > 0.0):
        raise InputError(f"gain {gain} does not move the expert; give a number above 0, 1 is its own")
    return Recording(tasks, episodes, seed, noise, image_size, workers, gain)


_open: dict[tuple[str, int], MetaWorld] = {}


def demonstrate(task: str, seed: int, noise: float, image_size: int, gain: float = 1.0) -> Demonstration:
    """One episode of the expert, successful or not. The simulator stays open for the next episode of the task."""
    if (task, image_size) not in _open:
        release()
        _open[task, image_size] = MetaWorld(task, image_size)
    environment = _open[task, image_size]
    observation = environment.reset(seed)
    disturbance = disturbances(np.random.default_rng((seed, sorted(TASKS).index(task))), noise)
    images: list[NDArray[np.uint8]] = []
    actions: list[NDArray[np.float64]] = []
    proprio: list[NDArray[np.floating]] = []
    success = done = False
    while not done:
        assert observation.proprio is not None
        action = environment.expert_action(gain)
        images.append(observation.image)
        actions.append(action)
        proprio.append(observation.proprio)
        transition = environment.step(action + next(disturbance))
        observation, success, done = transition.observation, transition.success, transition.done
    return Demonstration(
        task=task,
        instruction=environment.instruction,
        seed=seed,
        images=np.stack(images),
        actions=np.stack(actions).astype(np.float32),
        proprio=np.stack(proprio).astype(np.float32),
        success=success,
    )


def disturbances(random: np.random.Generator, noise: float) -> Iterator[NDArray[np.float64]]:
    """Endless float64 (4,): zeros in half of the episodes; in the others, now and then, a push of deviation `noise`.

    A push holds one Gaussian vector on x, y and z for a few steps. Pauses between pushes let the expert recover;
    without them fine tasks hardly ever succeed.
    """
    noisy = random.random() < NOISY_EPISODES
    while True:
        pushed = noisy and random.random() < PUSH_PROBABILITY
        push = np.append(noise * random.standard_normal(3), np.zeros(SPEC.dim - 3)) if pushed else np.zeros(SPEC.dim)
        for _ in range(PUSH_STEPS if pushed else 1):
            yield push


def release() -> None:
    """Close the simulator that this process keeps open between episodes."""
    for environment in _open.values():
        environment.close()
    _open.clear()
