from __future__ import annotations

import json
import pickle

import pytest

from openvla.cli.main import main
from openvla.sim import rollout
from openvla.sim.evaluation import EpisodeResult, Evaluation, TaskResult
from openvla.sim.tasks import DEFAULT_TASKS, TASKS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `evaluate` was asked; it answers with one success in two episodes of every task."""
    asked: list[dict] = []

    def evaluate(policy, suite, **settings) -> Evaluation:
        asked.append({"policy": policy, "suite": suite, **settings})
        tasks = {
            name: TaskResult(
                TASKS[name], (EpisodeResult(name, 1, True, 30, (5.0,)), EpisodeResult(name, 2, False, 99, (7.0,)))
            )
            for name in settings["tasks"]
        }
        return Evaluation(suite, tasks, control_hz=16.0, duration_s=4.0)

    monkeypatch.setattr(rollout, "evaluate", evaluate)
    return asked


def test_json_holds_the_fields_of_the_contract(policies, calls, capsys) -> None:
    assert main("eval --checkpoint nano --suite metaworld --episodes 2 --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"suite", "episodes", "success_rate", "ci95", "tasks"} <= found.keys()
    assert found["episodes"] == 2 * len(DEFAULT_TASKS)
    assert found["tasks"]["door-open"]["success_rate"] == 0.5


def test_options_reach_the_evaluation(policies, calls, capsys, tmp_path) -> None:
    line = f"eval --checkpoint c --tasks door-open reach --episodes 3 --workers 2 --seed 4 --output {tmp_path}/out"
    assert main([*line.split(), "--statistics", "metaworld", "--device", "cpu"]) == 0
    asked = calls[0]
    policy = asked.pop("policy")()
    assert policy.loaded == {"source": "c", "statistics": "metaworld", "device": "cpu", "quantize": None}
    assert asked == {
        "suite": "metaworld",
        "tasks": ("door-open", "reach"),
        "episodes": 3,
        "workers": 2,
        "seed": 4,
        "output": tmp_path / "out",
        "instruct": None,
    }


def test_the_policy_factory_can_be_sent_to_a_worker(monkeypatch, calls, capsys) -> None:
    from openvla.infer.policy import load_policy

    assert main("eval --checkpoint nano --workers 2".split()) == 0
    factory = pickle.loads(pickle.dumps(calls[0]["policy"]))
    assert factory.func is load_policy


def test_instructions_are_swapped_between_neighbours(policies, calls, capsys) -> None:
    assert main("eval --checkpoint nano --tasks door-close door-open --swap-instructions".split()) == 0
    assert calls[0]["instruct"] == {"door-close": "open the door", "door-open": "close the door"}


def test_the_table_has_a_row_per_task_and_the_whole(policies, calls, capsys, tmp_path) -> None:
    assert main(f"eval --checkpoint nano --tasks door-open reach --output {tmp_path}".split()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "task       instruction     success  from   to  steps",
        "door-open  open the door       50%    9%  91%     30",
        "reach      reach the goal      50%    9%  91%     30",
        "all                            50%   15%  85%      -",
        "",
        "4 episodes in 4 s; one action takes 6.0 ms median, 7.0 ms for the slowest 1 %",
        f"{tmp_path}/report.html",
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--suite liberoo", "unknown suite 'liberoo'; known are metaworld"),
        ("--tasks dor-open", "unknown metaworld task 'dor-open'; did you mean 'door-open'"),
        ("--tasks reach --swap-instructions", "1 task has no other to exchange instructions with"),
        ("--episodes 0", "0 episodes per task"),
        ("--workers 0", "0 workers"),
        ("--seed -1", "evaluation seed -1 is negative"),
    ],
)
def test_bad_usage_is_one_sentence(policies, capsys, line, sentence) -> None:
    assert main(["eval", "--checkpoint", "nano", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err


@pytest.mark.parametrize("line", ["", "--checkpoint c --server http://127.0.0.1:1"])
def test_either_a_checkpoint_or_a_server_is_evaluated(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *line.split()]) == 2
    assert "name what to evaluate: either --checkpoint, or --server" in capsys.readouterr().err


def test_a_server_is_asked_with_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from openvla.cli.evaluate import Options, policy_factory
    from openvla.serve.client import RemotePolicy

    monkeypatch.setenv("OPENVLA_API_KEY", "k")
    factory = policy_factory(Options(server="http://127.0.0.1:1", statistics="toy"))
    policy = pickle.loads(pickle.dumps(factory))()
    assert isinstance(policy, RemotePolicy)
    assert policy.statistics == "toy"
