"""The simulators that a policy can be evaluated in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, lookup
from openvla.sim.metaworld import DEFAULT_TASKS, SPEC, TASKS, MetaWorld
from openvla.spec import ActionSpec, Environment


class Stage(Environment, Protocol):
    """An environment that can also be filmed."""

    def render(self, size: int) -> NDArray[np.uint8]:
        """The picture now, uint8 (size, size, 3)."""
        ...


@dataclass(frozen=True)
class Suite:
    """A simulator: instructions by task, the tasks run by default, and how to build one task at an image size."""

    instructions: Mapping[str, str]
    default: tuple[str, ...]
    spec: ActionSpec
    build: Callable[[str, int], Stage]


SUITES: dict[str, Suite] = {"metaworld": Suite(TASKS, DEFAULT_TASKS, SPEC, MetaWorld)}


def check_policy_spec(policy: ActionSpec, suite: str, robot: ActionSpec) -> None:
    """Raise InputError where a policy's actions would mean something else on this robot.

    An unknown control rate (0) or gripper convention ("none") of the policy passes.
    """
    if policy.dim != robot.dim:
        raise InputError(
            f"the policy's actions have {policy.dim} values ({', '.join(policy.names)}), but {suite} takes {robot.dim} "
            f"({', '.join(robot.names)}); evaluate a policy trained for this robot"
        )
    if "none" not in (policy.gripper, robot.gripper) and policy.gripper != robot.gripper:
        raise InputError(
            f"the policy's gripper is {policy.gripper!r}, but {suite} has {robot.gripper!r}: it would open instead of "
            "close; evaluate a policy trained for this robot"
        )
    if policy.control_hz > 0 and abs(policy.control_hz / robot.control_hz - 1) > 0.01:
        raise InputError(
            f"the policy acts at {policy.control_hz:g} Hz, but {suite} takes {robot.control_hz:g} actions a second, so "
            "every motion would be scaled; evaluate a policy trained at this rate"
        )


def instructions(suite: str, tasks: tuple[str, ...] | None, instruct: Mapping[str, str]) -> dict[str, str]:
    """What is said in each task, in the order of `tasks` (None: the default ones), replaced where `instruct` says so.

    Raises UsageError for an unknown suite or task, InputError for an empty instruction or no tasks at all.
    """
    known = lookup(suite, SUITES, "suite")
    chosen = known.default if tasks is None else tasks
    if not chosen:
        raise InputError(f"no task is given; name some of {suite}, or leave the tasks out for the default ones")
    for task in (*chosen, *instruct):
        lookup(task, known.instructions, f"{suite} task")
    told = {task: instruct.get(task, known.instructions[task]) for task in chosen}
    for task, words in told.items():
        if not words.strip():
            raise InputError(f"the instruction for {task!r} is empty; say in words what the robot should do")
    return told
