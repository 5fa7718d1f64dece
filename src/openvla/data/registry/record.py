"""A data set in one record: which raw name is what, and how its actions are put together.

Every data set of the registry is one `DataRecord`, and so is one of your own:

    from openvla.data.registry.columns import clipped, inverted
    from openvla.data.registry.record import DataRecord, end_effector

    MY_ROBOT = DataRecord(
        images={"primary": "observation|image"},
        columns=("action[:6]", inverted(clipped("action[6:]"))),
        proprio=("observation|state",),
        action=end_effector(control_hz=10),
    )

`openvla finetune --dataset my_robot.py:MY_ROBOT` takes it from there.

Shapes: T raw steps, N <= T steps after the transform, A action dimensions.
Source: the data set registry of the published OpenVLA code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.registry.columns import Part, Steps, join, take
from openvla.data.registry.filters import is_labeled, keep_all
from openvla.data.registry.trajectory import unchanged
from openvla.errors import UsageError, lookup
from openvla.spec import ActionSpec

VIEWS = ("primary", "secondary", "wrist")
OBSERVATION = "observation|"


class StateEncoding(IntEnum):
    """What the proprioception vector holds; a pad is one column of zeros."""

    NONE = -1
    POS_EULER = 1
    """x, y, z, roll, pitch, yaw, pad, gripper."""
    POS_QUAT = 2
    """x, y, z, quaternion, gripper."""
    JOINT = 3
    """Seven joint angles (padded), gripper."""
    JOINT_BIMANUAL = 4
    """Twice: six joint angles, gripper."""


class ActionEncoding(IntEnum):
    """What the action vector holds."""

    EEF_POS = 1
    """Relative x, y, z, roll, pitch, yaw, and the gripper's position."""
    JOINT_POS = 2
    """Seven joint angles and the gripper's position."""
    JOINT_POS_BIMANUAL = 3
    """Twice: six joint angles and the gripper's position."""
    EEF_R6 = 4
    """Relative x, y, z, the first two rows of the rotation matrix, and the gripper's position."""

    @property
    def loadable(self) -> bool:
        """Whether published training takes such actions; a mixture leaves the others out."""
        return self != ActionEncoding.JOINT_POS

    @property
    def absolute(self) -> bool:
        """Whether every dimension is a position to reach, rather than a motion."""
        return self in (ActionEncoding.JOINT_POS, ActionEncoding.JOINT_POS_BIMANUAL)


def end_effector(control_hz: float = 0.0) -> ActionSpec:
    """Relative end-effector motion plus an absolute gripper: the action of nearly all of Open X-Embodiment."""
    return ActionSpec(
        names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "1"),
        low=np.full(7, -np.inf),
        high=np.full(7, np.inf),
        control_hz=control_hz,
        gripper="open_is_high",
    )


def joint_positions(control_hz: float = 0.0) -> ActionSpec:
    """Seven joint angles to reach, and the gripper."""
    return ActionSpec(
        names=(*(f"joint_{n}" for n in range(7)), "gripper"),
        units=("rad",) * 7 + ("1",),
        low=np.full(8, -np.inf),
        high=np.full(8, np.inf),
        control_hz=control_hz,
        gripper="open_is_high",
    )


SHAPES = (
    ("images", Mapping, 'a table such as {"primary": "observation|image"}'),
    ("depth", Mapping, 'a table such as {"primary": "observation|depth"}'),
    ("fields", Mapping, 'a table such as {"grip": "observation|state[-1:]"}'),
    ("columns", Sequence, 'a tuple such as ("action[:6]", "action[6:]")'),
    ("proprio", Sequence, 'a tuple such as ("observation|state",)'),
    ("action", ActionSpec, "an ActionSpec such as end_effector(control_hz=10)"),
)
"""Parts of a record that are easily written as something else: name, type, how to write them."""


@dataclass(frozen=True, eq=False)
class DataRecord:
    """What is known of one data set beyond its files.

    images: view ("primary", "secondary", "wrist") -> raw name of the camera's images.
    depth: view -> raw name of encoded depth maps, or how they are computed.
    columns: what the common action is put together from, on the raw steps.
    fields: new step fields and what they are made of, on the raw steps; any of them may replace a raw one.
    proprio: names (raw ones or of `fields`) joined to the proprioception vector; None is one column of zeros.
    language: raw name of the instruction: text, or code points that end with a zero.
    action: names, units, rate and gripper convention of the common action.
    encoding, state_encoding: the same in the words of the published registry; None where it has none.
    normalized: per action dimension, whether it is normalised; None: all, but a gripper in the last dimension.
    before, after: what is done to the whole trajectory before and after the columns are put together.
    keep_frames: which frames are trained on: normalised actions (N, chunk, A) -> bool (N,).
    swapped: two views of equal standing: each time a trajectory is read, a coin decides which shows which.
    keep_episode: which episodes are trained on, by their metadata; None: all.
    offline: what published training did to the files of this set before it read them; a raw download lacks it.
    line: where the published registry (oxe/configs.py) has it; 0 where it has not.
    name: what statistics are stored under; the registry and `find_record` fill it in.

    Raises UsageError for a part of another form, such as one name where a tuple of them is due.
    """

    images: Mapping[str, str]
    columns: tuple[Part, ...] = ("action",)
    proprio: tuple[str | None, ...] = ()
    fields: Mapping[str, Part] = field(default_factory=dict[str, Part])
    depth: Mapping[str, Part] = field(default_factory=dict[str, Part])
    language: str = "language_instruction"
    action: ActionSpec = field(default_factory=end_effector)
    encoding: ActionEncoding | None = None
    state_encoding: StateEncoding = StateEncoding.NONE
    normalized: tuple[bool, ...] | None = None
    before: Callable[[Steps], Steps] = unchanged
    after: Callable[[Steps], Steps] = unchanged
    keep_frames: Callable[[NDArray[Any]], NDArray[np.bool_]] = keep_all
    swapped: tuple[str, str] | None = None
    keep_episode: Callable[[Mapping[str, Any]], bool] | None = None
    offline: str = ""
    line: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for part, wanted, form in SHAPES:
            value: object = getattr(self, part)
            if isinstance(value, str) or not isinstance(value, wanted):
                raise UsageError(f"{part} of a data set's record is {value!r}; write {form}")

    def transform(self, steps: Steps) -> dict[str, NDArray[Any]]:
        """Raw steps with the common "action" and the record's fields; T may shrink, of all arrays alike.

        Raises KeyError for a raw name that is missing, ValueError for shapes that do not fit.
        """
        steps = self.before(steps)
        made = {name: take(steps, part) for name, part in self.fields.items()}
        return dict(self.after({**steps, **made, "action": join(steps, self.columns)}))

    def images_of(self, view: str) -> str:
        """The raw name of the images that `view` shows. Raises UsageError where the robot has no such camera."""
        if view == "primary" and view not in self.images:
            held = ", ".join(self.images) or "none"
            raise UsageError(
                f"data set {self.name!r} has no primary camera, only {held}; train on another data set, or write a "
                "record of your own that names one of these primary"
            )
        return lookup(view, self.images, f"view of {self.name!r}")

    def camera(self, view: str, coin: bool = False) -> str | None:
        """The raw name of the images that `view` shows, with `coin` those of its twin; None where there is none."""
        if coin and self.swapped is not None and view in self.swapped:
            first, second = self.swapped
            view = second if view == first else first
        return self.images.get(view)

    def filter(self, instructions: Iterable[str], metadata: Mapping[str, Any] | None = None) -> bool:
        """Whether an episode is trained on: it says something at some step, and `keep_episode` does not object."""
        return is_labeled(instructions) and (self.keep_episode is None or self.keep_episode(metadata or {}))

    @property
    def mask(self) -> tuple[bool, ...]:
        """Per action dimension, whether it is normalised."""
        if self.normalized is not None:
            return self.normalized
        return self._all_but_gripper(True)

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Per action dimension, whether it is a position (repeated past the end) rather than a motion (then 0)."""
        if self.encoding is not None and self.encoding.absolute:
            return (True,) * self.action.dim
        return self._all_but_gripper(False)

    def _all_but_gripper(self, value: bool) -> tuple[bool, ...]:
        if self.action.gripper == "none":
            return (value,) * self.action.dim
        return (value,) * (self.action.dim - 1) + (not value,)

    @property
    def refusal(self) -> str | None:
        """Why published training leaves this data set out of a mixture, in a few words; None where it takes it."""
        if self.encoding is None or self.encoding.loadable:
            return None
        return f"its actions are {self.encoding.name}, and only EEF_POS, EEF_R6 and JOINT_POS_BIMANUAL can be loaded"
