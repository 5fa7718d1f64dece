from __future__ import annotations

import numpy as np
import pytest

from openvla.errors import InputError, SimulatorError, UsageError
from openvla.sim.metaworld import DEFAULT_TASKS, SPEC, TASKS, MetaWorld
from openvla.spec import Environment

SIZE = 32


@pytest.fixture(scope="module")
def reach():
    stage = MetaWorld("reach", SIZE)
    yield stage
    stage.close()


def run_expert(stage, seed):
    """The transitions of one expert episode."""
    stage.reset(seed)
    while True:
        transition = stage.step(stage.expert_action())
        yield transition
        if transition.done:
            return


def test_it_is_an_environment_that_declares_what_actions_mean(reach):
    assert isinstance(reach, Environment)
    assert reach.spec.names == ("x", "y", "z", "gripper")
    assert reach.spec.control_hz == 16.0
    assert reach.spec.gripper == "open_is_low"


def test_an_observation_holds_image_instruction_hand_and_gripper(reach):
    observation = reach.reset(3)
    assert observation.image.shape == (SIZE, SIZE, 3)
    assert observation.image.std() > 20
    assert observation.instruction == TASKS["reach"] == reach.instruction
    assert observation.proprio.shape == (4,)
    np.testing.assert_allclose(observation.proprio, [0.0, 0.6, 0.2, 1.0], atol=0.02)


def test_the_same_seed_gives_the_same_episode_whatever_came_before(reach):
    def episode(seed):
        first = reach.reset(seed)
        return [first, *(reach.step(np.array([0.5, -0.5, 0.2, 1.0])).observation for _ in range(3))]

    before = episode(7)
    other = episode(8)
    after = episode(7)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.proprio, two.proprio)
    assert np.any(before[0].image != other[0].image)


def test_one_is_five_centimetres_a_step(reach):
    start = reach.reset(0).proprio
    for _ in range(2):
        end = reach.step(np.array([1.0, 0.0, 0.0, 0.0])).observation.proprio
    for _ in range(3):
        end = reach.step(np.zeros(4)).observation.proprio
    np.testing.assert_allclose((end - start)[:3], [0.10, 0.0, 0.0], atol=0.01)


def test_plus_one_closes_the_gripper_and_minus_one_opens_it(reach):
    reach.reset(0)
    for effort, opening in ((1.0, 0.35), (-1.0, 1.0)):
        for _ in range(6):
            gripper = reach.step(np.array([0.0, 0.0, 0.0, effort])).observation.proprio[3]
        assert gripper == pytest.approx(opening, abs=0.1)


def test_values_beyond_the_range_are_clipped(reach):
    def after(value):
        reach.reset(0)
        return reach.step(np.array([value, 0.0, 0.0, 0.0])).observation.proprio

    np.testing.assert_array_equal(after(9.0), after(1.0))


def test_the_expert_reaches_the_goal_and_success_ends_the_episode(reach):
    *on_the_way, last = run_expert(reach, 5)
    assert last.success
    assert last.done
    assert not any(transition.success or transition.done for transition in on_the_way)
    with pytest.raises(SimulatorError, match=r"the episode of 'reach' is over; call reset\(seed\) to start another"):
        reach.step(np.zeros(4))
    with pytest.raises(SimulatorError, match="is over"):
        reach.expert_action()


def test_an_idle_episode_ends_without_success_after_a_hundred_actions(reach):
    reach.reset(0)
    transitions = [reach.step(np.zeros(4)) for _ in range(100)]
    assert [transition.done for transition in transitions] == [False] * 99 + [True]
    assert not transitions[-1].success


def test_a_window_that_should_be_open_is_drawn_open_from_the_first_image():
    stage = MetaWorld("window-close", SIZE)
    first = stage.reset(0).image.astype(int)
    second = stage.step(np.zeros(4)).observation.image
    stage.close()
    assert np.abs(first - second).mean() < 2.0


def test_faucet_tasks_start_from_the_same_scene_so_that_only_the_words_differ():
    starts = []
    for task in ("faucet-open", "faucet-close"):
        stage = MetaWorld(task, SIZE)
        stage.reset(0)
        starts.append((stage._env.data.qpos.copy(), stage.instruction))
        stage.close()
    np.testing.assert_allclose(starts[0][0], starts[1][0], atol=1e-6)
    assert starts[0][1] != starts[1][1]


@pytest.mark.parametrize(("task", "direction"), [("faucet-open", 1), ("faucet-close", -1)])
def test_the_faucet_turns_to_the_side_that_is_told(task, direction):
    stage = MetaWorld(task, SIZE)
    stage.reset(0)
    handle = stage._state[4:7].copy()
    for _ in run_expert(stage, 0):
        pass
    moved = stage._state[4:7] - handle
    stage.close()
    assert np.sign(moved[0]) == direction  # x points to the right of someone who stands at the robot and looks along


@pytest.mark.parametrize("size", [16, 100])
def test_render_draws_at_any_size(reach, size):
    reach.reset(0)
    assert reach.render(size).shape == (size, size, 3)


@pytest.mark.parametrize("values", [np.zeros(7), np.zeros((1, 4)), np.float64(0.0)])
def test_an_action_of_another_shape_is_refused(reach, values):
    reach.reset(0)
    with pytest.raises(InputError, match=r"the action has shape \(.*\), not \(4,\); give x, y, z, gripper"):
        reach.step(values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_no_number_is_refused(reach, bad):
    reach.reset(0)
    with pytest.raises(InputError, match=r"contains NaN or infinity; every value must lie in \[-1, 1\]"):
        reach.step(np.array([bad, 0.0, 0.0, 0.0]))


def test_a_negative_seed_is_refused(reach):
    with pytest.raises(InputError, match="seed -1 is negative; give a whole number from 0"):
        reach.reset(-1)


def test_nothing_works_before_reset_or_after_close():
    stage = MetaWorld("reach", SIZE)
    with pytest.raises(SimulatorError, match=r"has not started; call reset\(seed\) before the first step"):
        stage.step(np.zeros(4))
    with pytest.raises(SimulatorError, match=r"has no state to draw yet; call reset\(seed\) first"):
        stage.render(SIZE)
    stage.reset(0)
    stage.close()
    stage.close()
    with pytest.raises(SimulatorError, match="has not started"):
        stage.step(np.zeros(4))


def test_an_unknown_task_gets_the_nearest_names():
    with pytest.raises(UsageError, match="unknown Meta-World task 'drawer-opne'; did you mean 'drawer-open'"):
        MetaWorld("drawer-opne")


@pytest.mark.slow
@pytest.mark.parametrize("task", DEFAULT_TASKS)
def test_experts_succeed_at_the_control_rate_of_the_policy(task):
    stage = MetaWorld(task, 1)
    successes = [list(run_expert(stage, seed))[-1].success for seed in range(20)]
    stage.close()
    assert sum(successes) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_reset_drawn_and_repeated(task):
    stage = MetaWorld(task, SIZE)
    first = stage.reset(5)
    expert = stage.expert_action()
    stage.step(expert)
    again = stage.reset(5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_allclose(stage.expert_action(), expert, atol=1e-9)
    assert SPEC.low.min() <= expert.min() <= expert.max() <= SPEC.high.max()
    stage.close()
