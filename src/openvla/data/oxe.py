"""One declarative record per data set: which raw key is what, and how its actions are brought to the common form.

A record is looked up by the data set's published name. `transform` works on the flat raw steps (every array has first
axis T) and may shorten all of them alike; `standardize` then picks and joins the columns.

Source: the data set registry of the published OpenVLA code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.gripper import binarize_gripper
from openvla.sim import metaworld
from openvla.spec import ActionSpec

Steps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class DatasetRecord:
    """What is known of one data set beyond its files.

    transform: raw steps -> raw steps with the common "action".
    images: view ("primary", "secondary", "wrist") -> raw key.
    proprio: raw keys joined to the proprioception vector; None is one column of zeros.
    language: raw key of the instruction.
    action: names, units, rate and gripper convention of the common action.
    mask: per action dimension, whether it is normalised.
    """

    transform: Callable[[Steps], Steps]
    images: Mapping[str, str]
    proprio: tuple[str | None, ...]
    action: ActionSpec
    mask: tuple[bool, ...]
    language: str = "language_instruction"


def identity(steps: Steps) -> Steps:
    """The raw steps are in the common form already."""
    return steps


def bridge(steps: Steps) -> Steps:
    """BridgeData V2: drop the first step, binarise the gripper, replace commanded by reached motion (T -> T - 2)."""
    steps = {name: values[1:] for name, values in steps.items()}
    action, state = steps["action"], steps["observation|state"]
    gripper = binarize_gripper(action[:, -1])
    steps = relabel_actions({**steps, "action": np.concatenate([action[:, :6], gripper[:, None]], axis=1)})
    state = steps["observation|state"]
    return {**steps, "observation|EEF_state": state[:, :6], "observation|gripper_state": state[:, -1:]}


def relabel_actions(steps: Steps) -> Steps:
    """Motion as reached: action[t, :6] = state[t + 1, :6] - state[t, :6]; the gripper stays; the last step goes.

    Angles are subtracted without wrapping at pi, as published.
    """
    action, state = steps["action"], steps["observation|state"]
    moved = np.concatenate([state[1:, :6] - state[:-1, :6], action[:-1, -1:]], axis=1)
    return {**{name: values[:-1] for name, values in steps.items()}, "action": moved}


def end_effector(control_hz: float) -> ActionSpec:
    """Relative end-effector motion plus an absolute gripper: the action of nearly all of Open X-Embodiment."""
    return ActionSpec(
        names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "1"),
        low=np.full(7, -np.inf),
        high=np.full(7, np.inf),
        control_hz=control_hz,
        gripper="open_is_high",
    )


BRIDGE = DatasetRecord(
    transform=bridge,
    images={"primary": "observation|image_0", "secondary": "observation|image_1"},
    proprio=("observation|EEF_state", None, "observation|gripper_state"),
    action=end_effector(control_hz=5.0),
    mask=(True,) * 6 + (False,),
)

METAWORLD = DatasetRecord(
    transform=identity,
    images={"primary": "observation|image"},
    proprio=("observation|proprio",),
    action=metaworld.SPEC,
    mask=(True,) * 4,  # the gripper too: many tasks hold it still, and a constant survives only where it is normalised
)

DATASETS: dict[str, DatasetRecord] = {"bridge_dataset": BRIDGE, "bridge_orig": BRIDGE, "metaworld": METAWORLD}
