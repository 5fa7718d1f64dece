from __future__ import annotations

import json
import re

import av
import pytest
import sim_fakes

from openvla.errors import InputError, SimulatorError, UsageError
from openvla.sim import player
from openvla.sim.metaworld import SPEC
from openvla.sim.rollout import evaluate
from openvla.sim.seeds import EVALUATION_SEED
from openvla.spec import Action


class Expert:
    """Meta-World's scripted expert as a policy: it looks at the simulator of this process."""

    spec = SPEC

    def act(self, observation):
        return Action(player._player._stage.expert_action()[None])

    def act_batch(self, observations):
        return [self.act(observation) for observation in observations]

    def reset(self):
        pass


def outcomes(evaluation):
    return [(one.task, one.seed, one.success, one.steps) for one in evaluation.results]


def test_the_expert_succeeds_in_meta_world():
    evaluation = evaluate(Expert(), tasks=["coffee-button"], episodes=2, image_size=32)
    assert evaluation.success_rate == 1.0
    assert evaluation.control_hz == 16.0
    assert [one.seed for one in evaluation.results] == [EVALUATION_SEED, EVALUATION_SEED + 1]
    assert 4 <= evaluation.tasks["coffee-button"].mean_steps_to_success <= 15
    assert player._player is None


def test_chunks_are_executed_row_by_row_until_the_episode_ends():
    evaluation = evaluate(sim_fakes.Walker(), "track", tasks=["near"], episodes=3)
    assert {one.seed: one.steps for one in evaluation.results} == {
        seed: 1 + seed % 3 for seed in range(EVALUATION_SEED, EVALUATION_SEED + 3)
    }
    assert [len(one.latencies_ms) for one in evaluation.results] == [-(-one.steps // 2) for one in evaluation.results]


def test_seeds_shift_with_the_seed():
    evaluation = evaluate(sim_fakes.Walker(), "track", episodes=2, seed=5)
    assert [one.seed for one in evaluation.results] == 2 * [EVALUATION_SEED + 5, EVALUATION_SEED + 6]


def test_other_instructions_reach_the_policy():
    told = evaluate(sim_fakes.Walker(), "track", episodes=2, instruct={"far": "stay"})
    assert told.tasks["near"].success_rate == 1.0
    assert told.tasks["far"].success_rate == 0.0
    assert told.tasks["far"].instruction == "stay"
    assert told.tasks["far"].mean_steps_to_success is None


def test_one_worker_and_two_give_the_same_result():
    alone = evaluate(sim_fakes.Walker, "track", episodes=4)
    together = evaluate(sim_fakes.Walker, "track", episodes=4, workers=2)
    assert outcomes(alone) == outcomes(together)


def test_output_holds_numbers_videos_and_a_report_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "run"
    evaluation = evaluate(
        sim_fakes.Walker(), "track", tasks=["near"], episodes=3, output=folder, instruct={"near": "stay"}
    )
    evaluate(sim_fakes.Walker(), "track", tasks=["near"], episodes=3, output=folder)
    videos = [f"videos/near-{EVALUATION_SEED + i}-success.mp4" for i in range(2)]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["report.html", "results.json", *videos]
    written = json.loads((folder / "results.json").read_text())
    assert written["success_rate"] == 1.0
    assert [one["video"] for one in written["tasks"]["near"]["results"]] == [*videos, None]
    assert evaluation.results[0].video == videos[0].replace("success", "failure")
    with av.open(str(folder / videos[0])) as film:
        assert film.streams.video[0].width == 256
    assert "100%" in (folder / "report.html").read_text()


def test_a_progress_bar_counts_on_stderr(capfd):
    evaluate(sim_fakes.Walker(), "track", tasks=["near"], episodes=2)
    shown = capfd.readouterr()
    assert "2/2" in shown.err
    assert "2 succeeded" in shown.err
    assert shown.out == ""


def test_a_policy_of_another_robot_is_refused_naming_both():
    rule = r"actions have 3 values \(x, y, z\), but track takes 2 \(x, gripper\)"
    with pytest.raises(InputError, match=rule):
        evaluate(sim_fakes.OtherRobot(), "track", episodes=1)


def test_an_action_that_is_no_chunk_is_refused():
    with pytest.raises(InputError, match=r"action of shape \(2,\), but track takes \(chunk, 2\)"):
        evaluate(sim_fakes.Flat(), "track", episodes=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_policy_ends_the_run(workers, tmp_path):
    with pytest.raises(ArithmeticError, match="the policy divided by zero"):
        evaluate(sim_fakes.Faulty, "track", episodes=2, workers=workers, output=tmp_path)
    assert player._player is None
    assert not list(tmp_path.iterdir())


def test_a_killed_worker_ends_the_run():
    with pytest.raises(SimulatorError, match="a worker process died before it could answer"):
        evaluate(sim_fakes.Killed, "track", episodes=2, workers=2)


@pytest.mark.parametrize(
    ("policy", "settings", "error", "message"),
    [
        (
            sim_fakes.Walker(),
            {"workers": 2},
            InputError,
            "a Walker cannot be shared by 2 worker processes; give a func",
        ),
        (lambda: sim_fakes.Walker(), {"workers": 2}, InputError, "policy factory cannot be sent to worker processes"),
        ("nano", {}, InputError, "a str is no policy; give an object with spec, act, act_batch and reset"),
        (sim_fakes.Walker(), {"episodes": 0}, InputError, "0 episodes per task evaluate nothing; give a number from 1"),
        (sim_fakes.Walker(), {"seed": -1}, InputError, "evaluation seed -1 is negative"),
        (sim_fakes.Walker(), {"tasks": ["nera"]}, UsageError, "unknown track task 'nera'; did you mean 'near'"),
        (sim_fakes.Walker(), {"workers": 0}, InputError, "0 workers cannot run anything"),
    ],
)
def test_impossible_settings_are_refused(policy, settings, error, message):
    with pytest.raises(error, match=message):
        evaluate(policy, **{"suite": "track", "episodes": 1, **settings})


def test_a_run_that_cannot_start_leaves_no_output_behind(tmp_path):
    with pytest.raises(InputError, match="actions have 3 values"):
        evaluate(sim_fakes.OtherRobot(), "track", episodes=1, output=tmp_path / "new" / "run")
    with pytest.raises(InputError, match="0 workers"):
        evaluate(sim_fakes.Walker(), "track", episodes=1, workers=0, output=tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_made_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"cannot create {re.escape(str(tmp_path))}/file/videos: .*; choose another"):
        evaluate(sim_fakes.Faulty(), "track", output=tmp_path / "file")
