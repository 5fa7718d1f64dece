from __future__ import annotations

import numpy as np
import pytest

from openvla.errors import InputError, SimulatorError, UsageError
from openvla.sim import demonstrations
from openvla.sim.demonstrations import Demonstration, demonstrate, disturbances, record, release
from openvla.sim.seeds import EVALUATION_SEED

SIZE = 32


def outcome(success):
    """A stand-in for `demonstrate` that runs nothing."""

    def fake(task, seed, noise, image_size, gain):
        empty = np.zeros((1, 4), np.float32)
        images = np.zeros((1, image_size, image_size, 3), np.uint8)
        return Demonstration(task, task, seed, images, empty, empty, success(seed))

    return fake


def test_a_demonstration_pairs_every_image_with_the_experts_action():
    (shown,) = record(["coffee-button"], 1, seed=4, image_size=SIZE)
    steps = len(shown.actions)
    assert shown.success
    assert shown.instruction == "press the button of the coffee machine"
    assert (shown.task, shown.seed) == ("coffee-button", 4)
    assert shown.images.shape == (steps, SIZE, SIZE, 3)
    assert shown.images.dtype == np.uint8
    assert shown.actions.shape == shown.proprio.shape == (steps, 4)
    assert shown.actions.dtype == shown.proprio.dtype == np.float32
    assert np.abs(shown.actions).max() <= 1.0
    assert 4 <= steps <= 15


def test_noise_disturbs_the_motion_and_not_the_labels(monkeypatch):
    monkeypatch.setattr(demonstrations, "NOISY_EPISODES", 1.0)
    monkeypatch.setattr(demonstrations, "PUSH_PROBABILITY", 1.0)
    clean = demonstrate("coffee-button", 4, 0.0, SIZE)
    noisy = demonstrate("coffee-button", 4, 0.5, SIZE)
    release()
    np.testing.assert_array_equal(clean.actions[0], noisy.actions[0])
    assert np.abs(clean.proprio[2, :3] - noisy.proprio[2, :3]).max() > 0.005


def test_a_gain_scales_the_experts_motion_and_not_its_grip():
    plain = demonstrate("drawer-open", 4, 0.0, SIZE)
    softer = demonstrate("drawer-open", 4, 0.0, SIZE, gain=0.5)
    release()
    inside = np.abs(plain.actions[0, :3]) < 1
    np.testing.assert_allclose(softer.actions[0, :3][inside], 0.5 * plain.actions[0, :3][inside], rtol=1e-6)
    assert inside.any()
    assert softer.actions[0, 3] == plain.actions[0, 3]
    assert len(softer.actions) > len(plain.actions)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gain_that_does_not_move_is_refused(gain):
    with pytest.raises(InputError, match=r"gain .* does not move the expert; give a number above 0, 1 is its own"):
        record(["coffee-button"], 1, seed=0, gain=gain)


def test_pushes_last_three_steps_leave_the_gripper_alone_and_have_the_given_deviation(monkeypatch):
    monkeypatch.setattr(demonstrations, "NOISY_EPISODES", 1.0)
    source = disturbances(np.random.default_rng(0), 0.5)
    values = np.stack([next(source) for _ in range(20_000)])
    pushed = values[:, 0] != 0
    assert not values[:, 3].any()
    assert values[pushed, :3].std() == pytest.approx(0.5, rel=0.05)
    assert pushed.mean() == pytest.approx(3 * 0.15 / (3 * 0.15 + 0.85), rel=0.05)
    lengths = np.diff(np.flatnonzero(np.diff(values[:, 0], prepend=0.0, append=0.0)))
    assert lengths[:10].min() >= 1
    assert set(lengths[values[np.flatnonzero(np.diff(values[:, 0], prepend=0.0))[:-1], 0] != 0]) == {3}


def test_half_of_the_episodes_stay_undisturbed():
    def disturbed(seed):
        source = disturbances(np.random.default_rng(seed), 0.5)
        return any(next(source).any() for _ in range(60))

    assert np.mean([disturbed(seed) for seed in range(400)]) == pytest.approx(0.5, abs=0.08)


def test_failed_episodes_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(demonstrations, "demonstrate", outcome(lambda seed: seed % 3 != 0))
    recording = record(["reach", "push"], 4, seed=0, image_size=1)
    shown = [(one.task, one.seed) for one in recording]
    assert shown == [(task, seed) for task in ("reach", "push") for seed in (1, 2, 4, 5)]
    assert recording.failures == {"reach": 2, "push": 2}


def test_an_expert_that_keeps_failing_ends_the_recording(monkeypatch):
    monkeypatch.setattr(demonstrations, "demonstrate", outcome(lambda seed: seed == 2))
    recording = record(["reach"], 3, seed=0, noise=0.5, image_size=1)
    assert next(recording).seed == 2
    rule = "expert of 'reach' failed 14 episodes and finished 1 with noise 0.5; lower the noise or leave the task out"
    with pytest.raises(SimulatorError, match=rule):
        next(recording)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tasks": ["dorr-open"]}, UsageError, "unknown Meta-World task 'dorr-open'; did you mean 'door-open'"),
        ({"tasks": []}, InputError, "no task is given"),
        ({"episodes": 0}, InputError, "0 episodes per task record nothing; give a number from 1"),
        ({"noise": -0.1}, InputError, "noise -0.1 is not a standard deviation; give 0 or more"),
        ({"noise": float("nan")}, InputError, "noise nan is not a standard deviation"),
        ({"seed": EVALUATION_SEED}, InputError, "are kept for evaluation, so start lower"),
        ({"workers": 0}, InputError, "0 workers cannot run anything; give a number from 1"),
        ({"image_size": 0}, InputError, "image size 0 is not between 1 and 512 pixels"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        list(record(**{"tasks": ["reach"], "episodes": 1, "seed": 0, **settings}))


@pytest.mark.slow
def test_the_recording_is_the_same_with_one_worker_and_with_two():
    tasks = ["coffee-button", "drawer-open"]
    alone = list(record(tasks, 3, seed=3, noise=0.5, image_size=SIZE))
    together = list(record(tasks, 3, seed=3, noise=0.5, image_size=SIZE, workers=2))
    assert [(one.task, one.seed) for one in alone] == [(one.task, one.seed) for one in together]
    for one, two in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.actions, two.actions)
        np.testing.assert_array_equal(one.proprio, two.proprio)
