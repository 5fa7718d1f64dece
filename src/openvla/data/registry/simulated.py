"""Simulated robots: LIBERO, ManiSkill, Meta-World, and the two-armed data sets of the published fine-tuning.

Source: the data set registry of the published OpenVLA code, lines as given; that of OpenVLA-OFT and of OpenVLA-mini
for those without a line.
"""

from __future__ import annotations

import numpy as np

from openvla.data.registry.columns import clipped, inverted
from openvla.data.registry.record import ActionEncoding, DataRecord, StateEncoding
from openvla.data.registry.rows import POS_EULER, POS_QUAT, STATE, row, views
from openvla.sim import metaworld
from openvla.spec import ActionSpec


def libero(line: int) -> DataRecord:
    """LIBERO stores a gripper command from -1 (open) to 1 (closed), and two fingers: the proprioception has nine."""
    return row(
        line, 20, views("image", wrist="wrist_image"), ("EEF_state", None, "gripper_state"), POS_EULER,
        columns=("action[:6]", inverted(clipped("action[-1:]"))),
        fields={"EEF_state": f"{STATE}[:6]", "gripper_state": f"{STATE}[-2:]"},
        offline="steps without motion and failed episodes have been dropped, images turned by 180 degrees",
    )  # fmt: skip


def aloha() -> DataRecord:
    """Two arms that follow two others: joint angles to reach, all of them normalised."""
    names = tuple(
        f"{side}_{joint}" for side in ("left", "right") for joint in (*(f"joint_{n}" for n in range(6)), "gripper")
    )
    return DataRecord(
        images=views("image", left_wrist="left_wrist_image", right_wrist="right_wrist_image"),
        proprio=(STATE,),
        action=ActionSpec(names, (("rad",) * 6 + ("1",)) * 2, np.full(14, -np.inf), np.full(14, np.inf), 25.0),
        encoding=ActionEncoding.JOINT_POS_BIMANUAL,
        state_encoding=StateEncoding.JOINT_BIMANUAL,
    )


METAWORLD = DataRecord(
    images=views("image"),
    proprio=("observation|proprio",),
    action=metaworld.SPEC,
    normalized=(True,) * 4,  # the gripper too: many tasks hold it still, and a constant survives only normalised
)

LIBERO = {
    "libero_spatial_no_noops": libero(645),
    "libero_object_no_noops": libero(652),
    "libero_goal_no_noops": libero(659),
    "libero_10_no_noops": libero(666),
    "libero_4_task_suites_no_noops": libero(0),
    "libero_90": libero(0),
}
ALOHA = {
    "aloha1_fold_shorts_20_demos": aloha(),
    "aloha1_fold_shirt_30_demos": aloha(),
    "aloha1_scoop_X_into_bowl_45_demos": aloha(),
    "aloha1_put_X_into_pot_300_demos": aloha(),
}
SIMULATED = {
    "maniskill_dataset_converted_externally_to_rlds": row(
        242, 20, views("image", wrist="wrist_image"), ("tcp_pose", "gripper_state"), POS_QUAT,
        fields={"gripper_state": f"{STATE}[7:8]"}, depth=views("depth", wrist="wrist_depth"),
    ),
    **LIBERO,
    **ALOHA,
    "metaworld": METAWORLD,
}  # fmt: skip
