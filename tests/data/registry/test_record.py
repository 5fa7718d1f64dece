from __future__ import annotations

import numpy as np
import pytest

from openvla.data.registry.columns import inverted
from openvla.data.registry.find import DATASETS
from openvla.data.registry.record import ActionEncoding, DataRecord, end_effector, joint_positions
from openvla.data.registry.rows import views
from openvla.data.standardize import standardize
from openvla.errors import UsageError


def mine(**changes) -> DataRecord:
    return DataRecord(images={"primary": "observation|image"}, **{"name": "mine", **changes})


def test_a_record_of_ones_own_needs_only_a_camera() -> None:
    steps = {"action": np.ones((2, 7)), "language_instruction": np.array(["a", "b"])}
    result = standardize(mine(), steps)
    assert (result["action"].shape, result["proprio"].shape) == ((2, 7), (2, 0))
    assert result["language_instruction"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("part", "value", "remedy"),
    [
        ("images", "observation|image", "write a table such as"),
        ("columns", "action", "write a tuple such as"),
        ("proprio", "observation|state", "write a tuple such as"),
        ("fields", ("grip",), "write a table such as"),
        ("action", 7, "write an ActionSpec such as end_effector"),
    ],
)
def test_a_part_of_another_form_says_how_to_write_it(part: str, value: object, remedy: str) -> None:
    with pytest.raises(UsageError, match=rf"{part} of a data set's record is .*; {remedy}"):
        DataRecord(**{"images": {}, part: value})


def test_fields_are_made_of_raw_steps_and_may_replace_them() -> None:
    record = mine(
        fields={"observation|state": "observation|state[:1]", "grip": inverted("observation|state[1:]")},
        proprio=("observation|state", None, "grip"),
    )
    steps = {
        "action": np.ones((1, 7)),
        "observation|state": np.array([[3.0, 0.25]]),
        "language_instruction": np.array(["a"]),
    }
    assert standardize(record, steps)["proprio"].tolist() == [[3, 0, 0.75]]


def test_the_gripper_is_neither_normalised_nor_relative() -> None:
    assert mine().mask == (True,) * 6 + (False,)
    assert mine().absolute == (False,) * 6 + (True,)
    assert mine(normalized=(True,) * 7).mask == (True,) * 7
    joints = mine(action=joint_positions(), encoding=ActionEncoding.JOINT_POS)
    assert joints.mask == (True,) * 7 + (False,)
    assert joints.absolute == (True,) * 8
    assert DATASETS["aloha1_fold_shirt_30_demos"].mask == (True,) * 14
    assert DATASETS["aloha1_fold_shirt_30_demos"].absolute == (True,) * 14


def test_published_training_cannot_load_joint_positions() -> None:
    refused = {name for name, record in DATASETS.items() if record.refusal}
    assert refused == {
        "berkeley_mvp_converted_externally_to_rlds",
        "berkeley_rpt_converted_externally_to_rlds",
        "roboset",
    }
    assert "its actions are JOINT_POS, and only EEF_POS" in str(DATASETS["roboset"].refusal)


def test_a_coin_swaps_the_outer_cameras_of_droid() -> None:
    droid = DATASETS["droid"]
    left, right = (droid.images[view] for view in ("primary", "secondary"))
    assert [droid.camera("primary", coin) for coin in (False, True)] == [left, right]
    assert [droid.camera("secondary", coin) for coin in (False, True)] == [right, left]
    assert droid.camera("wrist", True) == droid.images["wrist"]
    assert DATASETS["droid_wipe"].camera("primary", True) == right
    assert DATASETS["droid_wipe"].camera("secondary") is None


def test_a_set_without_a_primary_camera_says_so() -> None:
    assert mine().images_of("primary") == "observation|image"
    with pytest.raises(UsageError, match="'berkeley_gnm_recon' has no primary camera, only wrist; train on another"):
        DATASETS["berkeley_gnm_recon"].images_of("primary")


def test_views_are_named_below_the_observation() -> None:
    assert views("a", wrist="b") == {"primary": "observation|a", "wrist": "observation|b"}
    assert end_effector(5).control_hz == 5
