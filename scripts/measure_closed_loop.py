"""What speculation and precision change in closed loop: the shipped policy plays, others see the same observations.

    python scripts/measure_closed_loop.py --episodes 2 > closed_loop.json

bf16 with speculation acts; the same policy without it, and the quantised ones, answer each observation beside it, in
an order that changes, so that what else runs on the machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

import numpy as np

from openvla.infer.policy import LocalPolicy, load_policy
from openvla.sim.metaworld import MetaWorld
from openvla.sim.seeds import evaluation_seeds
from openvla.sim.tasks import DEFAULT_TASKS
from openvla.spec import Action

ACTING = "bf16, speculating"


def main() -> None:
    """Play, compare and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2, help="per task")
    arguments = parser.parse_args()
    policies = {
        ACTING: load_policy("nano", speculate=True),
        "bf16": load_policy("nano", speculate=False),
        **{name: load_policy("nano", quantize=name) for name in ("int8", "int4")},
    }
    answers: dict[str, list[Action]] = defaultdict(list)
    successes = [
        play(task, seed, policies, answers)
        for task in DEFAULT_TASKS
        for seed in evaluation_seeds(100, arguments.episodes)
    ]
    report = {name: summary(answers[name], answers["bf16"]) for name in policies}
    print(json.dumps({"success": float(np.mean(successes)), **report}, indent=1))


def play(task: str, seed: int, policies: dict[str, LocalPolicy], answers: dict[str, list[Action]]) -> bool:
    """One episode, all answers added; whether it succeeded."""
    for policy in policies.values():
        policy.reset()
    world = MetaWorld(task)
    observation = world.reset(seed)
    while True:
        shift = len(answers[ACTING]) % len(policies)
        for name in [*policies, *policies][shift : shift + len(policies)]:
            answers[name].append(policies[name].act(observation))
        transition = world.step(answers[ACTING][-1].values[0])
        observation = transition.observation
        if transition.done:
            return transition.success


def summary(own: list[Action], reference: list[Action]) -> dict[str, float]:
    """Agreement with the reference, passes and medians of time."""
    pairs = list(zip(own, reference, strict=True))
    return {
        "actions": len(pairs),
        "equal_tokens": float(np.mean([np.equal(a.tokens, b.tokens).mean() for a, b in pairs])),
        "mean_action_difference": float(np.mean([np.abs(a.values - b.values).mean() for a, b in pairs])),
        "passes": float(np.mean([action.timing_ms["passes"] for action in own])),
        "total_ms": float(np.median([action.timing_ms["total"] for action in own])),
        "time_over_reference": float(np.median([a.timing_ms["total"] / b.timing_ms["total"] for a, b in pairs])),
    }


if __name__ == "__main__":
    main()
