"""How a row of the registry is written: short names for what most of its data sets share.

Image, state and field names are those below "observation|"; `columns` and the right-hand sides of `fields` are raw
names in full. Control rates are those of the Open X-Embodiment data set overview, 0 where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.registry.columns import Part, Steps
from openvla.data.registry.filters import keep_all
from openvla.data.registry.record import (
    OBSERVATION,
    VIEWS,
    ActionEncoding,
    DataRecord,
    StateEncoding,
    end_effector,
    joint_positions,
)
from openvla.data.registry.trajectory import unchanged

NONE, POS_EULER, POS_QUAT, JOINT = (
    StateEncoding.NONE,
    StateEncoding.POS_EULER,
    StateEncoding.POS_QUAT,
    StateEncoding.JOINT,
)

WORLD, ROTATION = "action|world_vector", "action|rotation_delta"
CLOSEDNESS = "action|gripper_closedness_action"
INSTRUCTION = "observation|natural_language_instruction"
STATE = "observation|state"
PADDED = (None,) * 8

POSE = {"eef_state": f"{STATE}[:6]", "gripper_state": f"{STATE}[-1:]"}
"""Six numbers of pose first, the gripper last."""
POSE_PROPRIO = ("eef_state", None, "gripper_state")
BGR = "its images were stored blue first and have been turned to red first"


def views(
    primary: str | None = None, secondary: str | None = None, wrist: str | None = None, **other: str
) -> dict[str, str]:
    """View -> raw name, of those that there are."""
    named = {**dict(zip(VIEWS, (primary, secondary, wrist), strict=True)), **other}
    return {view: OBSERVATION + name for view, name in named.items() if name is not None}


def row(
    line: int,
    control_hz: float,
    images: Mapping[str, str],
    proprio: tuple[str | None, ...],
    state: StateEncoding,
    *,
    columns: tuple[Part, ...] = ("action",),
    fields: Mapping[str, Part] | None = None,
    depth: Mapping[str, Part] | None = None,
    language: str = "language_instruction",
    joints: bool = False,
    before: Callable[[Steps], Steps] = unchanged,
    after: Callable[[Steps], Steps] = unchanged,
    keep_frames: Callable[[NDArray[Any]], NDArray[np.bool_]] = keep_all,
    keep_episode: Callable[[Mapping[str, Any]], bool] | None = None,
    swapped: tuple[str, str] | None = None,
    offline: str = "",
) -> DataRecord:
    """One data set; `line` is where the published registry has it. Without `joints` the action is EEF_POS."""
    return DataRecord(
        images=images,
        columns=columns,
        proprio=tuple(None if name is None else OBSERVATION + name for name in proprio),
        fields={OBSERVATION + name: part for name, part in (fields or {}).items()},
        depth=depth or {},
        language=language,
        action=joint_positions(control_hz) if joints else end_effector(control_hz),
        encoding=ActionEncoding.JOINT_POS if joints else ActionEncoding.EEF_POS,
        state_encoding=state,
        before=before,
        after=after,
        keep_frames=keep_frames,
        keep_episode=keep_episode,
        swapped=swapped,
        offline=offline,
        line=line,
    )
