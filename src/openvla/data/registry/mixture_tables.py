"""The published mixtures: data sets and weights, a literal table.

A list may name a data set twice (`rtx_franka` does); the first weight counts.

Source: oxe/mixtures.py of the published OpenVLA code; OpenVLA-OFT for the LIBERO suites together and for ALOHA;
OpenVLA-mini for LIBERO-90.
"""

from __future__ import annotations

EXTERNAL = "_converted_externally_to_rlds"
Weights = tuple[tuple[str, float], ...]

RTX: Weights = (
    ("fractal20220817_data", 0.54087122203),
    ("kuka", 0.8341046294),
    ("bridge_orig", 1.0),
    ("taco_play", 2.0),
    ("jaco_play", 2.0),
    ("berkeley_cable_routing", 3.0),
    ("roboturk", 1.0),
    ("viola", 2.0),
    ("berkeley_autolab_ur5", 1.0),
    ("toto", 1.0),
)

FRANKA: Weights = (
    ("taco_play", 1.0),
    ("berkeley_cable_routing", 1.0),
    ("viola", 1.0),
    ("toto", 1.0),
    (f"stanford_hydra_dataset{EXTERNAL}", 1.0),
    (f"austin_buds_dataset{EXTERNAL}", 3.0),
    (f"nyu_franka_play_dataset{EXTERNAL}", 3.0),
    (f"maniskill_dataset{EXTERNAL}", 0.1),
    (f"furniture_bench_dataset{EXTERNAL}", 0.1),
    (f"cmu_franka_exploration_dataset{EXTERNAL}", 5.0),
    (f"austin_sailor_dataset{EXTERNAL}", 1.0),
    (f"austin_sirius_dataset{EXTERNAL}", 1.0),
    (f"berkeley_rpt{EXTERNAL}", 1.0),
    (f"kaist_nonprehensile{EXTERNAL}", 3.0),
    (f"stanford_robocook{EXTERNAL}", 1.0),
    (f"iamlab_cmu_pickup_insert{EXTERNAL}", 1.0),
    ("utaustin_mutex", 1.0),
    ("cmu_play_fusion", 1.0),
)

MAGIC_SOUP: Weights = (
    ("fractal20220817_data", 0.54087122203),
    ("kuka", 0.8341046294),
    ("bridge_orig", 1.0),
    ("taco_play", 2.0),
    ("jaco_play", 1.0),
    ("berkeley_cable_routing", 1.0),
    ("roboturk", 2.0),
    ("viola", 2.0),
    ("berkeley_autolab_ur5", 2.0),
    ("toto", 1.0),
    ("language_table", 0.1),
    (f"stanford_hydra_dataset{EXTERNAL}", 2.0),
    (f"austin_buds_dataset{EXTERNAL}", 1.0),
    (f"nyu_franka_play_dataset{EXTERNAL}", 3.0),
    (f"furniture_bench_dataset{EXTERNAL}", 0.1),
    (f"ucsd_kitchen_dataset{EXTERNAL}", 2.0),
    (f"austin_sailor_dataset{EXTERNAL}", 1.0),
    (f"austin_sirius_dataset{EXTERNAL}", 1.0),
    (f"dlr_edan_shared_control{EXTERNAL}", 1.0),
    (f"iamlab_cmu_pickup_insert{EXTERNAL}", 1.0),
    ("utaustin_mutex", 1.0),
    ("berkeley_fanuc_manipulation", 2.0),
    ("cmu_stretch", 1.0),
)

MAGIC_SOUP_PLUS: Weights = (*MAGIC_SOUP, ("bc_z", 0.2), ("fmb_dataset", 1.0), ("dobbe", 0.2), ("droid", 0.06))

MAGIC_SOUP_PLUS_MINUS: Weights = (
    ("fractal20220817_data", 1.0),
    *(
        (name, weight)
        for name, weight in MAGIC_SOUP_PLUS
        if name not in ("fractal20220817_data", "language_table", "droid")
    ),
)

LIBERO = ("libero_spatial_no_noops", "libero_object_no_noops", "libero_goal_no_noops", "libero_10_no_noops")

ALONE = (
    "tdroid_carrot_in_bowl",
    "tdroid_pour_corn_in_pot",
    "tdroid_flip_pot_upright",
    "tdroid_move_object_onto_plate",
    "tdroid_knock_object_over",
    "tdroid_cover_object_with_towel",
    "droid_wipe",
    *LIBERO,
    "libero_90",
    "aloha1_fold_shorts_20_demos",
    "aloha1_fold_shirt_30_demos",
    "aloha1_scoop_X_into_bowl_45_demos",
    "aloha1_put_X_into_pot_300_demos",
)
"""Mixtures of the one data set that they are called after."""

MIXTURES: dict[str, Weights] = {
    "bridge": (("bridge_orig", 1.0),),
    "bridge_rt_1": (("bridge_orig", 1.0), ("fractal20220817_data", 1.0)),
    "rtx": RTX,
    "rtx_franka": (*RTX, *FRANKA),
    "oxe_magic_soup": MAGIC_SOUP,
    "oxe_magic_soup_plus": MAGIC_SOUP_PLUS,
    "oxe_magic_soup_plus_minus": MAGIC_SOUP_PLUS_MINUS,
    "libero_4_task_suites_no_noops": tuple((name, 1.0) for name in LIBERO),
    **{name: ((name, 1.0),) for name in ALONE},
}
