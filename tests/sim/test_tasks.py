from __future__ import annotations

import pytest

from openvla.sim.camera import require_mujoco
from openvla.sim.tasks import DEFAULT_TASKS, MARKED_TASKS, TASKS


def test_every_task_of_meta_world_has_an_instruction():
    require_mujoco()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{task}-v3" for task in TASKS} == set(ALL_V3_ENVIRONMENTS)


def test_no_two_tasks_are_told_the_same_words():
    assert len(set(TASKS.values())) == len(TASKS)


@pytest.mark.parametrize("words", TASKS.values())
def test_instructions_are_short_plain_lower_case_words(words):
    assert words == words.strip().lower()
    assert words.replace(" ", "").isalpha()
    assert len(words.split()) <= 11


def test_the_ten_default_tasks_hold_four_pairs_that_share_a_scene():
    scenes = [task.rpartition("-")[0] for task in DEFAULT_TASKS]
    assert len(DEFAULT_TASKS) == 10
    assert [scene for scene in dict.fromkeys(scenes) if scenes.count(scene) == 2] == [
        "door",
        "drawer",
        "faucet",
        "window",
    ]


def test_goal_spheres_never_tell_the_tasks_of_a_scene_apart():
    assert set(TASKS) >= MARKED_TASKS
    assert not MARKED_TASKS & set(DEFAULT_TASKS)
