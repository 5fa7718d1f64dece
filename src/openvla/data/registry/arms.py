"""Arms on a table other than the Franka: WidowX, KUKA, Jaco, Sawyer, UR5, xArm and more.

Source: the data set registry of the published OpenVLA code, lines as given.
"""

from __future__ import annotations

from openvla.data.registry.columns import binarized, clipped, inverted, joined, ones, positions, unboxed, zeros
from openvla.data.registry.filters import succeeded
from openvla.data.registry.record import DataRecord
from openvla.data.registry.rows import (
    BGR,
    CLOSEDNESS,
    INSTRUCTION,
    JOINT,
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
from openvla.data.registry.trajectory import reached_motion, without_first

BRIDGE_FIELDS = {"EEF_state": f"{STATE}[:6]", "gripper_state": f"{STATE}[-1:]"}
BRIDGE_PROPRIO = ("EEF_state", None, "gripper_state")


def bridge(line: int) -> DataRecord:
    """BridgeData V2: the first step goes, the gripper is binarised, commanded motion becomes reached motion."""
    return row(
        line, 5, views("image_0", "image_1"), BRIDGE_PROPRIO, POS_EULER,
        before=without_first, columns=("action[:6]", binarized("action[-1:]")), after=reached_motion,
        fields=BRIDGE_FIELDS,
    )  # fmt: skip


WIDOWX = {
    "bridge_oxe": row(
        72, 5, views("image", "image_1"), BRIDGE_PROPRIO, POS_EULER,
        before=without_first, columns=(WORLD, ROTATION, "action|open_gripper"), after=reached_motion,
        fields=BRIDGE_FIELDS, language=INSTRUCTION,
    ),
    "bridge_orig": bridge(79),
    "bridge_dataset": bridge(86),
}  # fmt: skip

XARM = {
    "language_table": row(
        173, 10, views("rgb"), ("effector_translation", *[None] * 6), POS_EULER,
        columns=("action", zeros(4), ones(1)), language="observation|instruction",
    ),
    "nyu_rot_dataset_converted_externally_to_rlds": row(
        198, 3, views("image"), POSE_PROPRIO, POS_EULER, columns=("action[:7]",), fields=POSE,
    ),
    "ucsd_kitchen_dataset_converted_externally_to_rlds": row(
        279, 2, views("image"), ("joint_state", None), JOINT,
        columns=("action[:-1]",), fields={"joint_state": f"{STATE}[:7]"},
    ),
    "ucsd_pick_and_place_dataset_converted_externally_to_rlds": row(
        286, 3, views("image"), POSE_PROPRIO, POS_EULER,
        columns=("action[:3]", zeros(3), "action[-1:]"), fields=POSE,
    ),
    "utokyo_xarm_pick_and_place_converted_externally_to_rlds": row(
        341, 10, views("image", "image2", "hand_image"), ("end_effector_pose", None, None), POS_EULER,
    ),
    "utokyo_xarm_bimanual_converted_externally_to_rlds": row(
        352, 10, views("image"), ("pose_r", None, None), POS_EULER, columns=("action[-7:]",),
    ),
    "berkeley_mvp_converted_externally_to_rlds": row(
        366, 5, views(wrist="hand_image"), ("pose", "gripper"), POS_QUAT, joints=True,
    ),
}  # fmt: skip

SAWYER = {
    "roboturk": row(
        130, 10, views("front_rgb"), PADDED, NONE,
        columns=(WORLD, ROTATION, inverted(clipped(CLOSEDNESS))), language=INSTRUCTION,
    ),
    "robo_net": row(
        359, 1, views("image", "image1"), POSE_PROPRIO, POS_EULER,
        columns=("action[:4]", zeros(2), "action[-1:]"),
        fields={"eef_state": joined(f"{STATE}[:4]", zeros(2)), "gripper_state": f"{STATE}[-1:]"},
    ),
    "stanford_mask_vit_converted_externally_to_rlds": row(
        387, 0, views("image"), POSE_PROPRIO, POS_EULER,
        columns=("action[:4]", zeros(2), "action[-1:]"),
        fields={
            "eef_state": joined("observation|end_effector_pose[:4]", zeros(2)),
            "gripper_state": "observation|end_effector_pose[-1:]",
        },
    ),
    "imperialcollege_sawyer_wrist_cam": row(
        436, 10, views("image", wrist="wrist_image"), (*[None] * 7, "state"), NONE, columns=("action[:-1]",),
    ),
}  # fmt: skip

UR5 = {
    "berkeley_autolab_ur5": row(
        155, 5, views("image", wrist="hand_image"), ("state",), POS_QUAT,
        columns=(WORLD, ROTATION, positions(CLOSEDNESS)), fields={"state": "observation|robot_state[6:14]"},
        depth=views("image_with_depth"), language=INSTRUCTION, offline=f"wrist: {BGR}",
    ),
    "columbia_cairlab_pusht_real": row(
        180, 10, views("image", wrist="wrist_image"), ("robot_state", *[None] * 6), POS_EULER,
        columns=(WORLD, ROTATION, CLOSEDNESS), language=INSTRUCTION,
    ),
    "asu_table_top_converted_externally_to_rlds": row(
        422, 12.5, views("image"), POSE_PROPRIO, POS_EULER,
        fields={"eef_state": "ground_truth_states|EE", "gripper_state": f"{STATE}[-1:]"},
    ),
}  # fmt: skip

OTHER = {
    "kuka": row(
        62, 10, views("image"), ("clip_function_input/base_pose_tool_reached", "gripper_closed"), POS_QUAT,
        columns=(WORLD, ROTATION, positions(CLOSEDNESS)), language=INSTRUCTION,
        keep_episode=succeeded, offline="episodes that did not succeed have been dropped",
    ),
    "jaco_play": row(
        108, 10, views("image", wrist="image_wrist"), ("state_eef", None, "state_gripper"), POS_EULER,
        columns=(WORLD, zeros(3), positions(CLOSEDNESS)), language=INSTRUCTION,
        fields={
            "state_eef": "observation|end_effector_cartesian_pos[:6]",
            "state_gripper": "observation|end_effector_cartesian_pos[-1:]",
        },
    ),
    "stanford_kuka_multimodal_dataset_converted_externally_to_rlds": row(
        191, 20, views("image"), ("ee_position", "ee_orientation", None), POS_QUAT,
        columns=("action[:3]", zeros(3), "action[-1:]"),
        depth={"primary": unboxed("observation|depth_image")},
    ),
    "tokyo_u_lsmo_converted_externally_to_rlds": row(394, 10, views("image"), POSE_PROPRIO, POS_EULER, fields=POSE),
    "dlr_sara_pour_converted_externally_to_rlds": row(401, 10, views("image"), ("state", None, None), POS_EULER),
    "dlr_sara_grid_clamp_converted_externally_to_rlds": row(
        408, 10, views("image"), ("state", None, None), POS_EULER, fields={"state": f"{STATE}[:6]"},
    ),
    "dlr_edan_shared_control_converted_externally_to_rlds": row(
        415, 5, views("image"), ("state", None), POS_EULER, columns=("action[:6]", inverted("action[-1:]")),
    ),
    "uiuc_d3field": row(
        458, 1, views("image_1", "image_2"), PADDED, NONE,
        columns=("action", zeros(4)), depth=views("depth_1", "depth_2"),
    ),
    "berkeley_fanuc_manipulation": row(
        476, 10, views("image", wrist="wrist_image"), ("joint_state", None, "gripper_state"), JOINT,
        columns=("action", inverted(f"{STATE}[6:7]")),
        fields={"joint_state": f"{STATE}[:6]", "gripper_state": f"{STATE}[6:7]"}, offline=BGR,
    ),
    "rh20t": row(
        582, 10, views("image_front", "image_side_right", "image_wrist"), ("proprio",), POS_EULER,
        columns=("action|tcp_base", "action|gripper"),
        fields={"proprio": joined("observation|tcp_base", "observation|gripper_width")},
    ),
}  # fmt: skip

ARMS = {**WIDOWX, **XARM, **SAWYER, **UR5, **OTHER}
