from __future__ import annotations

import numpy as np
import pytest

from openvla.errors import InputError
from openvla.spec import Action, ActionSpec, Observation

FRAME = np.zeros((4, 6, 3), np.uint8)


def test_an_observation_keeps_what_it_was_given() -> None:
    observation = Observation(FRAME, "open the drawer", {"wrist": FRAME}, np.ones(7))
    assert observation.image is FRAME
    assert observation.extra_images["wrist"] is FRAME


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (FRAME.tolist(), r"image is a list, not a uint8 RGB array .*; use np.asarray\(image\)"),
        (FRAME.astype(np.float32), r"image has dtype float32, .*scale to 0..255"),
        (FRAME[..., 0], r"image has shape \(4, 6\), .*grayscale: use np.repeat\(image\[..., None\], 3, -1\)"),
        (FRAME[..., :1], r"image has shape \(4, 6, 1\), .*grayscale: use np.repeat\(image, 3, -1\)"),
        (np.zeros((4, 6, 4), np.uint8), r"image has shape \(4, 6, 4\), .*RGBA: use image\[..., :3\]"),
        (FRAME[None], r"image has shape \(1, 4, 6, 3\), .*one camera frame at a time, channels last"),
        (FRAME.transpose(2, 0, 1), r"image has shape \(3, 4, 6\), .*channels last"),
        (FRAME[:0], r"image has shape \(0, 6, 3\): it holds no pixels; check the camera"),
    ],
)
def test_an_image_that_is_not_rgb_bytes_is_refused_with_the_way_to_convert(image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Observation(image, "open the drawer")


def test_a_bad_extra_image_is_named() -> None:
    with pytest.raises(InputError, match="extra image 'wrist' has shape"):
        Observation(FRAME, "open the drawer", {"wrist": FRAME[..., 0]})


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_empty_instruction_is_refused(instruction: str) -> None:
    with pytest.raises(InputError, match="the instruction is empty; say in words"):
        Observation(FRAME, instruction)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_robot_state_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="proprio contains NaN or infinity"):
        Observation(FRAME, "open the drawer", proprio=np.array([0.0, bad]))


def test_an_action_may_come_without_tokens() -> None:
    action = Action(np.zeros((1, 4)))
    assert action.tokens is None
    assert action.timing_ms == {}


def test_an_action_spec_counts_its_dimensions() -> None:
    spec = ActionSpec(("x", "gripper"), ("m", "1"), np.zeros(2), np.ones(2), 5.0, "open_is_high")
    assert spec.dim == 2


def test_an_action_spec_of_uneven_parts_is_refused() -> None:
    with pytest.raises(InputError, match="got 2 names, 1 units, 2 low and 2 high"):
        ActionSpec(("x", "y"), ("m",), np.zeros(2), np.ones(2), 5.0)


def test_an_unknown_gripper_convention_is_refused() -> None:
    with pytest.raises(InputError, match="gripper convention 'open' is not one of open_is_high, open_is_low, none"):
        ActionSpec(("x",), ("m",), np.zeros(1), np.ones(1), 5.0, "open")
