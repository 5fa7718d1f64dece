"""What worker processes can import: plain jobs, a one-line world and its policies; this adds the suite "track"."""

from __future__ import annotations

import os
import signal

import numpy as np

from openvla.sim.suites import SUITES, Suite
from openvla.sim.workers import THREADS
from openvla.spec import Action, ActionSpec, Observation, Transition

SPEC = ActionSpec(("x", "gripper"), ("m", "1"), np.full(2, -1.0), np.full(2, 1.0), 10.0, "open_is_low")


class Line:
    """Walk right from 0 to a goal that the seed sets: 1 + seed % 3 metres away, within eight steps."""

    spec = SPEC

    def __init__(self, task, image_size):
        self.task, self.image_size = task, image_size

    def reset(self, seed):
        self.goal, self.x, self.steps = 1 + seed % 3, 0.0, 0
        return self._observe()

    def step(self, values):
        self.x += values[0]
        self.steps += 1
        success = self.x >= self.goal
        return Transition(self._observe(), bool(success), bool(success or self.steps == 8))

    def render(self, size):
        return np.full((size, size, 3), self.steps, np.uint8)

    def close(self):
        pass

    def _observe(self):
        return Observation(self.render(self.image_size), "walk")


SUITES["track"] = Suite({"near": "walk right", "far": "walk far right"}, ("near", "far"), SPEC, Line)


class Walker:
    """Walks right, two steps per answer, unless it is told to stay."""

    spec = SPEC

    def act(self, observation):
        speed = 0.0 if observation.instruction == "stay" else 1.0
        return Action(np.array([[speed, 0.0], [speed, 0.0]]))

    def act_batch(self, observations):
        return [self.act(observation) for observation in observations]

    def reset(self):
        pass


class Faulty(Walker):
    def act(self, observation):
        raise ArithmeticError("the policy divided by zero")


class Killed(Walker):
    def act(self, observation):
        os.kill(os.getpid(), signal.SIGKILL)


class Flat(Walker):
    def act(self, observation):
        return Action(np.zeros(2))


class OtherRobot(Walker):
    spec = ActionSpec(("x", "y", "z"), ("m",) * 3, np.full(3, -1.0), np.full(3, 1.0), 10.0)


_given = None


def install(value):
    global _given
    _given = value


def given_plus(number):
    return _given + number


def threads(_):
    return os.environ.get(THREADS)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number):
    raise ArithmeticError(f"no {number}")
