"""Robots that drive: the Google robot, PR2, Stretch, and bases without an arm.

Source: the data set registry of the published OpenVLA code, lines as given.
"""

from __future__ import annotations

from openvla.data.registry.columns import inverted, joined, positions, zeros
from openvla.data.registry.record import DataRecord
from openvla.data.registry.rows import (
    CLOSEDNESS,
    INSTRUCTION,
    NONE,
    PADDED,
    POS_EULER,
    POS_QUAT,
    POSE,
    POSE_PROPRIO,
    ROTATION,
    STATE,
    WORLD,
    row,
    views,
)


def pr2(line: int) -> DataRecord:
    """The last action column says when the episode ends, and goes."""
    return row(line, 10, views("image"), POSE_PROPRIO, POS_EULER, columns=("action[:-1]",), fields=POSE)


def base(line: int, control_hz: float) -> DataRecord:
    """A base with two wheels: it moves in the plane, sees to the front, and has no gripper."""
    return row(
        line, control_hz, views(wrist="image"), ("state", None, None), POS_EULER, columns=("action", zeros(5)),
        fields={"state": joined("observation|position", zeros(3), "observation|yaw")},
    )  # fmt: skip


MOBILE = {
    "fractal20220817_data": row(
        55, 3, views("image"), ("base_pose_tool_reached", "gripper_closed"), POS_QUAT,
        columns=(WORLD, ROTATION, positions(CLOSEDNESS)), language=INSTRUCTION,
    ),
    "nyu_door_opening_surprising_effectiveness": row(
        137, 3, views(wrist="image"), PADDED, NONE,
        columns=(WORLD, ROTATION, positions(CLOSEDNESS)), language=INSTRUCTION,
    ),
    "bc_z": row(
        315, 10, views("image"), ("present/xyz", "present/axis_angle", None, "present/sensed_close"), POS_EULER,
        columns=(
            "action|future/xyz_residual[:3]",
            "action|future/axis_angle_residual[:3]",
            inverted("action|future/target_close[:1]"),
        ),
        language=INSTRUCTION,
    ),
    "utokyo_pr2_opening_fridge_converted_externally_to_rlds": pr2(327),
    "utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds": pr2(334),
    "cmu_stretch": row(
        505, 10, views("image"), POSE_PROPRIO, POS_EULER, columns=("action[:-1]",),
        fields={"eef_state": joined(f"{STATE}[:3]", zeros(3)), "gripper_state": f"{STATE}[-1:]"},
    ),
    "berkeley_gnm_recon": base(512, 3),
    "berkeley_gnm_cory_hall": base(519, 5),
    "berkeley_gnm_sac_son": base(526, 10),
    "dobbe": row(564, 30, views("wrist_image"), ("proprio",), POS_EULER, fields={"proprio": STATE}),
}  # fmt: skip
