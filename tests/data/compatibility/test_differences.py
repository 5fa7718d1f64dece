from __future__ import annotations

import math

import numpy as np
import pytest

from openvla.codec.statistics import compute
from openvla.data.compatibility.compare import compare
from openvla.data.compatibility.differences import DIFFERS, UNCLEAR
from openvla.data.compatibility.profiles import Profile
from openvla.data.registry.record import end_effector, joint_positions
from openvla.spec import ActionSpec, conventional_spec


def profile(
    scale: np.ndarray | float = 1.0,
    *,
    spec: ActionSpec | None = None,
    gripper=lambda values: values,
    follows: float = math.nan,
    start: float = math.nan,
    mask=None,
) -> Profile:
    """Motion that leans to one side in x, and a gripper that is open two thirds of the time."""
    random = np.random.default_rng(0)
    motion = random.normal(size=(600, 6)) * 0.01 + [0.02, 0, 0, 0, 0, 0]
    grip = gripper((random.random((600, 1)) < 0.7).astype(float))
    rows = np.hstack([motion * scale, grip])
    spec = spec or end_effector(5)
    return Profile("set", compute([(rows, None)], mask).action, spec, np.full(spec.dim, follows), start)


def verdicts(a: Profile, b: Profile) -> dict[str, str]:
    """The worst verdict of each aspect, and its words."""
    order = ["same", UNCLEAR, DIFFERS]
    worst: dict[str, str] = {}
    for finding in sorted(compare(a, b).findings, key=lambda finding: order.index(finding.verdict)):
        worst[finding.aspect] = f"{finding.verdict}: {finding.text}"
    return worst


def test_a_set_is_compatible_with_itself() -> None:
    result = compare(profile(follows=1), profile(follows=1))
    assert result.compatible
    assert {finding.verdict for finding in result.findings} == {"same"}
    assert "A and B are compatible\n" in result.text
    assert result.to_dict()["compatible"] is True


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1000, "as if metres against millimetres"),
        (100, "as if metres against centimetres"),
        (5, "times as far a step in B"),
    ],
)
def test_another_scale_is_named_with_what_would_explain_it(scale: float, words: str) -> None:
    result = compare(profile(), profile(scale))
    texts = [finding.text for finding in result.findings if finding.aspect == "scale" and finding.dimension == "y"]
    assert words in texts[0]
    assert not result.compatible
    assert "in A as in B" in verdicts(profile(scale), profile())["scale"]


def test_degrees_and_rates_explain_a_scale() -> None:
    degrees = np.array([1, 1, 1, 57.3, 57.3, 57.3])
    assert "yaw moves 57.3 times" in verdicts(profile(), profile(degrees))["scale"]
    assert "as if radians against degrees" in verdicts(profile(), profile(degrees))["scale"]
    slow, fast = profile(3, spec=end_effector(5)), profile(spec=end_effector(15))
    assert "the control rates explain it, 5 and 15 Hz" in verdicts(slow, fast)["scale"]
    assert "explain" not in verdicts(profile(3, spec=end_effector(15)), profile(spec=end_effector(5)))["scale"]


def test_a_dimension_that_never_moves_differs() -> None:
    still = profile(np.array([1, 0, 1, 1, 1, 1]))
    assert "y (nearly) never changes in B" in verdicts(profile(), still)["scale"]
    assert verdicts(still, still)["scale"].startswith("same")


def test_an_axis_that_points_the_other_way_is_seen() -> None:
    flipped = np.array([-1, 1, 1, 1, 1, 1])
    assert (
        "differs: x points the other way: its values in B are those of A mirrored"
        in verdicts(profile(), profile(flipped))["sign"]
    )
    assert (
        "the robot moves along it in A and against it in B"
        in verdicts(profile(follows=0.9), profile(follows=-0.9))["sign"]
    )
    assert verdicts(profile(follows=0.9), profile(flipped, follows=0.9))["sign"].startswith("same")


def test_leaning_to_opposite_sides_is_suspicious() -> None:
    random = np.random.default_rng(1)
    rows = np.hstack([random.normal(size=(500, 6)) * 0.01 - [0.03, 0, 0, 0, 0, 0], np.ones((500, 1))])
    other = Profile("other", compute([(rows, None)]).action, end_effector(5), np.full(7, math.nan))
    assert "x leans to opposite sides" in verdicts(profile(), other)["sign"]


def test_symmetric_motion_has_no_sign_in_statistics() -> None:
    random = np.random.default_rng(2)
    rows = np.hstack([random.normal(size=(500, 6)), np.ones((500, 1))])
    other = Profile("other", compute([(rows, None)]).action, end_effector(5), np.full(7, math.nan))
    assert "y, z, roll, pitch, yaw: the statistics of both fit either direction" in verdicts(profile(), other)["sign"]


def test_grippers_are_told_apart() -> None:
    low = ActionSpec(**{**vars(end_effector(5)), "gripper": "open_is_low"})
    assert (
        "opens towards high values in A and towards low values in B"
        in verdicts(profile(), profile(spec=low))["gripper"]
    )
    signed = profile(gripper=lambda values: 2 * values - 1)
    assert "its values have another range, 0..1 against -1..1" in verdicts(profile(), signed)["gripper"]
    inverted = profile(gripper=lambda values: 1 - values)
    assert "unclear: its mean is" in verdicts(profile(), inverted)["gripper"]
    begun = profile(gripper=lambda values: 1 - values, start=0)
    assert "differs: episodes begin with 1 in A and 0 in B" in verdicts(profile(start=1), begun)["gripper"]
    one = profile(mask=[True] * 6 + [False])
    assert "normalised in B and left as it is in A" in verdicts(one, profile(mask=[True] * 7))["gripper"]


def test_unknown_grippers_are_said_to_be_unknown() -> None:
    unknown = ActionSpec(**{**vars(end_effector(5)), "gripper": "none"})
    assert "A has a gripper, of B it is not known" in verdicts(profile(), profile(spec=unknown))["gripper"]
    assert "neither has a gripper" in verdicts(profile(spec=unknown), profile(spec=unknown))["gripper"]


def test_rates_and_dimensions() -> None:
    assert "A acts 5 times a second, B 15 times" in verdicts(profile(), profile(spec=end_effector(15)))["rate"]
    unknown = profile(spec=conventional_spec(7))
    assert "unclear: the control rate of B is not known" in verdicts(profile(), unknown)["rate"]
    assert "as far as is known" in compare(unknown, unknown).text
    rows = np.random.default_rng(0).normal(size=(20, 8))
    joints = Profile("joints", compute([(rows, None)]).action, joint_positions(), np.full(8, math.nan))
    assert verdicts(profile(), joints)["dimensions"] == "differs: A has 7 action dimensions, B 8"
