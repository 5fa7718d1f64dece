from __future__ import annotations

import json

import numpy as np
import pytest

from openvla.sim.evaluation import EpisodeResult, Evaluation, TaskResult, wilson


def result(task, outcomes, latency_ms=2.0):
    episodes = [EpisodeResult(task, 10 + i, good, 5 + i, (latency_ms,)) for i, good in enumerate(outcomes)]
    return TaskResult(f"do {task}", tuple(episodes))


@pytest.fixture
def evaluation():
    tasks = {"a": result("a", [True, True, False, False]), "b": result("b", [True], latency_ms=12.0)}
    return Evaluation("metaworld", tasks, control_hz=16.0, duration_s=1.5, circumstances={"seed": "0"})


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_equal_published_values(successes, trials, low, high):
    # 81 of 263: Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("successes", range(8))
def test_wilson_bounds_are_where_the_score_test_just_rejects(successes):
    rate = successes / 7
    for bound in wilson(successes, 7):
        if 0 < bound < 1:
            assert abs(rate - bound) / np.sqrt(bound * (1 - bound) / 7) == pytest.approx(1.959964, abs=1e-5)


def test_every_task_weighs_the_same_and_the_interval_counts_all_episodes(evaluation):
    assert evaluation.success_rate == pytest.approx((0.5 + 1.0) / 2)
    assert evaluation.ci95 == wilson(3, 5)


def test_steps_to_success_are_those_of_successes_only(evaluation):
    assert evaluation.tasks["a"].mean_steps_to_success == 5.5
    assert result("c", [False]).mean_steps_to_success is None


def test_latencies_are_pooled_over_episodes(evaluation):
    assert evaluation.latency_ms(50) == 2.0
    assert evaluation.latency_ms(100) == 12.0


def test_the_dictionary_is_json_with_the_promised_keys(evaluation):
    written = json.loads(json.dumps(evaluation.to_dict()))
    assert {"suite", "episodes", "success_rate", "ci95", "tasks", "latency_ms", "control_hz"} <= set(written)
    assert written["episodes"] == 5
    assert set(written["latency_ms"]) == {"p50", "p99"}
    task = written["tasks"]["a"]
    assert task["successes"] == 2
    assert task["episodes"] == 4
    assert task["success_rate"] == 0.5
    assert task["ci95"] == list(wilson(2, 4))
    assert task["instruction"] == "do a"
    assert task["results"][0] == {"seed": 10, "success": True, "steps": 5, "video": None}
