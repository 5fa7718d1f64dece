from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.errors import UsageError
from openvla.infer.bench import bench_inference
from openvla.infer.policy import LocalPolicy
from openvla.train.config import TrainConfig
from openvla.train.fresh import fresh_checkpoint
from openvla.train.setup import with_statistics


@pytest.fixture
def policy(toy_data: Path, tmp_path: Path) -> LocalPolicy:
    start = fresh_checkpoint("micro", "metaworld", 0)
    start.codec = with_statistics(start.codec, TrainConfig(data=toy_data, output=tmp_path, checkpoint="preset:micro"))
    return LocalPolicy(start)


def test_percentiles_are_ordered_and_phases_make_up_the_whole(policy: LocalPolicy) -> None:
    found = bench_inference(policy, runs=5, warmup=1, batch=2)
    assert set(found.phases_ms) == {"preprocess", "vision", "prefill", "decode", "post", "total"}
    for times in found.phases_ms.values():
        assert 0 <= times["p50"] <= times["p90"] <= times["p99"]
    assert found.actions_per_s > 0
    assert found.peak_memory_bytes > 2**20
    assert json.dumps(found.to_dict())


def test_numbers_that_measure_nothing_are_refused(policy: LocalPolicy) -> None:
    with pytest.raises(UsageError, match="runs is 0, batch 1, warmup 10; give numbers from 1"):
        bench_inference(policy, runs=0)
