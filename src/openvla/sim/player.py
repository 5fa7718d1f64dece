"""One process's part of an evaluation: it keeps a policy and the current simulator, and plays one episode per job."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError
from openvla.sim.evaluation import EpisodeResult
from openvla.sim.suites import SUITES, Stage, check_policy_spec
from openvla.sim.video import write_video
from openvla.spec import Policy

FILM_SIZE = 256
FILM_HOLD = 8  # times the last frame is shown again, so that one sees how it ended


@dataclass(frozen=True)
class Job:
    """One episode: where, from which seed, told what, seen at which image size, filmed into which directory or not."""

    suite: str
    task: str
    seed: int
    instruction: str
    image_size: int
    films: Path | None = None


class Player:
    """A policy, made on the first job, and the simulator of the latest job's task."""

    def __init__(self, factory: Callable[[], Policy]) -> None:
        self._factory = factory
        self._policy: Policy | None = None
        self._stage: Stage | None = None
        self._stage_of: tuple[str, str, int] | None = None

    def play(self, job: Job) -> EpisodeResult:
        """Run one episode to its end."""
        policy, stage = self._policy_for(job), self._stage_for(job)
        policy.reset()
        latencies_ms: list[float] = []
        frames: list[NDArray[np.uint8]] = []
        observation = stage.reset(job.seed)
        steps, success, done = 0, False, False
        while not done:
            began = time.perf_counter()
            action = policy.act(dataclasses.replace(observation, instruction=job.instruction))
            latencies_ms.append(1e3 * (time.perf_counter() - began))
            for values in checked_chunk(action.values, job.suite, stage.spec.dim):
                if job.films is not None:
                    frames.append(stage.render(FILM_SIZE))
                transition = stage.step(values)
                observation, success, done = transition.observation, transition.success, transition.done
                steps += 1
                if done:
                    break
        video = None
        if job.films is not None:
            frames += FILM_HOLD * [stage.render(FILM_SIZE)]
            video = film(job, frames, success, stage.spec.control_hz)
        return EpisodeResult(job.task, job.seed, success, steps, tuple(latencies_ms), video)

    def close(self) -> None:
        """Close the simulator."""
        if self._stage is not None:
            self._stage.close()
        self._stage = self._stage_of = None

    def _policy_for(self, job: Job) -> Policy:
        if self._policy is None:
            self._policy = self._factory()
            check_policy_spec(self._policy.spec, job.suite, SUITES[job.suite].spec)
        return self._policy

    def _stage_for(self, job: Job) -> Stage:
        wanted = (job.suite, job.task, job.image_size)
        if self._stage is None or self._stage_of != wanted:
            self.close()
            self._stage, self._stage_of = SUITES[job.suite].build(job.task, job.image_size), wanted
        return self._stage


def checked_chunk(values: NDArray[np.float64], suite: str, dim: int) -> NDArray[np.float64]:
    """`values` if it is a (chunk, dim) array with at least one row, else InputError."""
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != dim:
        raise InputError(
            f"the policy answered an action of shape {values.shape}, but {suite} takes (chunk, {dim}); "
            "evaluate a policy trained for this robot"
        )
    return values


def film(job: Job, frames: list[NDArray[np.uint8]], success: bool, fps: float) -> str:
    """Write the episode's video; returns its path below the output directory."""
    assert job.films is not None
    outcomes = {True: "success", False: "failure"}
    name = f"{job.task}-{job.seed}-{{}}.mp4"
    (job.films / name.format(outcomes[not success])).unlink(missing_ok=True)  # an earlier run may have ended otherwise
    write_video(job.films / name.format(outcomes[success]), frames, fps)
    return f"{job.films.name}/{name.format(outcomes[success])}"


_player: Player | None = None


def install(factory: Callable[[], Policy]) -> None:
    """Give this process its player."""
    global _player
    _player = Player(factory)


def play(job: Job) -> EpisodeResult:
    """Play one episode with this process's player."""
    assert _player is not None, "install(factory) comes first"
    return _player.play(job)


def remove() -> None:
    """Close this process's player, if it has one."""
    global _player
    if _player is not None:
        _player.close()
    _player = None
