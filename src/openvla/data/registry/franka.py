"""The Franka arm, on a table: laboratory data sets, DROID, and those of the published evaluations.

Source: the data set registry of the published OpenVLA code, lines as given.
"""

from __future__ import annotations

from openvla.data.registry.columns import binarized, clipped, euler, inverted, joined, unboxed, zeros
from openvla.data.registry.filters import droid_moves
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

SIX_AND_CLOSEDNESS = ("action[:6]", inverted(clipped("action[-1:]")))
QUATERNION = ("action[:3]", euler("action[3:7]"))
TWO_VIEWS = views("image", wrist="wrist_image")

LABORATORIES = {
    "taco_play": row(
        93, 15, views("rgb_static", wrist="rgb_gripper"), ("state_eef", None, "state_gripper"), POS_EULER,
        columns=("action|rel_actions_world[:6]", clipped("action|rel_actions_world[-1:]")),
        fields={"state_eef": "observation|robot_obs[:6]", "state_gripper": "observation|robot_obs[7:8]"},
        depth=views("depth_static", wrist="depth_gripper"), language=INSTRUCTION,
    ),
    "berkeley_cable_routing": row(
        119, 10, views("image", "top_image", "wrist45_image"), ("robot_state", None), JOINT,
        columns=(WORLD, ROTATION, zeros(1)), language=INSTRUCTION,
    ),
    "viola": row(
        144, 20, views("agentview_rgb", wrist="eye_in_hand_rgb"), ("joint_states", "gripper_states"), JOINT,
        columns=(WORLD, ROTATION, inverted(clipped(CLOSEDNESS))), language=INSTRUCTION,
    ),
    "toto": row(
        166, 30, views("image"), ("state", None), JOINT,
        columns=(WORLD, ROTATION, "action|open_gripper"), language=INSTRUCTION,
    ),
    "stanford_hydra_dataset_converted_externally_to_rlds": row(
        205, 10, TWO_VIEWS, POSE_PROPRIO, POS_EULER, columns=("action[:6]", inverted("action[-1:]")),
        fields={"eef_state": joined(f"{STATE}[:3]", f"{STATE}[7:10]"), "gripper_state": f"{STATE}[-3:-2]"},
        offline=BGR,
    ),
    "austin_buds_dataset_converted_externally_to_rlds": row(
        216, 20, TWO_VIEWS, ("state",), JOINT, columns=SIX_AND_CLOSEDNESS, fields={"state": f"{STATE}[:8]"},
    ),
    "nyu_franka_play_dataset_converted_externally_to_rlds": row(
        227, 3, views("image", "image_additional_view"), ("eef_state", None, None), POS_EULER,
        columns=("action[-8:-2]", clipped("action[-2:-1]")),
        fields={"eef_state": f"{STATE}[-6:]"},
        depth={
            "primary": unboxed("observation|depth"),
            "secondary": unboxed("observation|depth_additional_view"),
        },
    ),
    "furniture_bench_dataset_converted_externally_to_rlds": row(
        257, 10, TWO_VIEWS, ("state",), POS_QUAT, columns=(*QUATERNION, inverted(clipped("action[-1:]"))),
        fields={"state": joined(f"{STATE}[:7]", f"{STATE}[-1:]")},
    ),
    "cmu_franka_exploration_dataset_converted_externally_to_rlds": row(
        268, 0, views("highres_image"), PADDED, NONE, columns=("action[:-1]",),
    ),
    "austin_sailor_dataset_converted_externally_to_rlds": row(
        293, 20, TWO_VIEWS, ("state",), POS_QUAT, columns=SIX_AND_CLOSEDNESS,
    ),
    "austin_sirius_dataset_converted_externally_to_rlds": row(
        304, 20, TWO_VIEWS, ("state",), POS_QUAT, columns=SIX_AND_CLOSEDNESS,
    ),
    "berkeley_rpt_converted_externally_to_rlds": row(
        373, 30, views(wrist="hand_image"), ("joint_pos", "gripper"), JOINT, joints=True,
    ),
    "kaist_nonprehensile_converted_externally_to_rlds": row(
        380, 10, views("image"), ("state", None), POS_QUAT,
        columns=("action[:6]", zeros(1)), fields={"state": f"{STATE}[-7:]"},
    ),
    "stanford_robocook_converted_externally_to_rlds": row(
        429, 5, views("image_1", "image_2"), POSE_PROPRIO, POS_EULER, fields=POSE, depth=views("depth_1", "depth_2"),
    ),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": row(
        447, 20, TWO_VIEWS, ("joint_state", "gripper_state"), JOINT, columns=(*QUATERNION, "action[7:8]"),
        fields={"joint_state": f"{STATE}[:7]", "gripper_state": f"{STATE}[7:8]"},
    ),
    "utaustin_mutex": row(
        465, 20, TWO_VIEWS, ("state",), JOINT, columns=SIX_AND_CLOSEDNESS, fields={"state": f"{STATE}[:8]"},
        offline=BGR,
    ),
    "cmu_playing_with_food": row(
        487, 0, views("image", wrist="finger_vision_1"), ("state", None, None), POS_EULER,
        columns=(*QUATERNION, "action[-1:]"),
    ),
    "cmu_play_fusion": row(498, 5, views("image"), ("state",), JOINT, columns=("action[:3]", "action[-4:]")),
    "fmb_dataset": row(
        549, 10, views("image_side_1", "image_side_2", "image_wrist_1"), ("proprio",), POS_EULER,
        fields={"proprio": joined("observation|eef_pose", "observation|state_gripper_pose")},
        depth=views("image_side_1_depth", "image_side_2_depth", "image_wrist_1_depth"),
    ),
    "roboset": row(
        571, 5, views("image_left", "image_right", "image_wrist"), ("proprio",), JOINT, joints=True,
        columns=("action[:7]", inverted(clipped("action[-1:]"))), fields={"proprio": STATE},
    ),
}  # fmt: skip

DROID_COLUMNS = ("action_dict|cartesian_velocity[:6]", inverted("action_dict|gripper_position"))
DROID_FIELDS = {"proprio": joined("observation|cartesian_position", "observation|gripper_position")}

DROID = {
    "droid": row(
        533, 15, views("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left"), ("proprio",), POS_QUAT,
        columns=DROID_COLUMNS, fields=DROID_FIELDS, swapped=("primary", "secondary"), keep_frames=droid_moves,
    ),
    "droid_wipe": row(
        637, 15, views("exterior_image_2_left", wrist="wrist_image_left"), ("proprio",), POS_EULER,
        columns=DROID_COLUMNS, fields=DROID_FIELDS,
    ),
}  # fmt: skip


def tabletop(line: int, image: str, depth: str | None = None) -> DataRecord:
    """A set recorded for the published evaluations: everything as stored, but the gripper binarised."""
    return row(
        line, 0, views(image), ("EEF_state", None, "gripper_state"), POS_EULER,
        columns=("action[:6]", binarized("action[-1:]")), depth=views(depth),
        fields={
            "EEF_state": "observation|cartesian_position[:6]",
            "gripper_state": "observation|gripper_position[-1:]",
        },
    )  # fmt: skip


TASKS = {
    "carrot_in_bowl": 594,
    "pour_corn_in_pot": 601,
    "flip_pot_upright": 608,
    "move_object_onto_plate": 615,
    "knock_object_over": 622,
    "cover_object_with_towel": 629,
}
EVALUATIONS = {
    **{f"tdroid_{task}": tabletop(line, "static_image", "static_depth_image") for task, line in TASKS.items()},
    **dict.fromkeys(("ppgm", "ppgm_static", "ppgm_wrist"), tabletop(0, "image")),
}

FRANKA = {**LABORATORIES, **DROID, **EVALUATIONS}
