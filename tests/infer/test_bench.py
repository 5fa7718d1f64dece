from __future__ import annotations

import json
from pathlib import Path

import pytest

from openvla.errors import UsageError
from openvla.infer.bench import bench_inference, bench_random
from openvla.infer.policy import LocalPolicy
from openvla.train.config import TrainConfig
from openvla.train.data import with_statistics
from openvla.train.fresh import fresh_checkpoint


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


def test_the_floor_is_below_what_is_measured(policy: LocalPolicy) -> None:
    found = bench_inference(policy, runs=3, warmup=1)
    assert set(found.work) == {"vision", "prefill", "decode"}
    assert found.floor_ms == pytest.approx(sum(phase["floor_ms"] for phase in found.work.values()))
    assert 0 < found.floor_fraction < 1.5
    assert found.precision == "float32"


@pytest.mark.parametrize(("quantize", "bytes_per_weight"), [(None, 4), ("int8", 1), ("int4", 0.75)])
def test_a_random_model_needs_no_checkpoint(quantize: str | None, bytes_per_weight: float) -> None:
    found = bench_random("micro", quantize=quantize, dtype="fp32", device="cpu", runs=2, warmup=0, batch=2)
    assert (found.batch, found.passes, found.precision) == (2, 7, quantize or "float32")
    assert found.parameters > 100_000
    matrices = 2 * (32 * (2 * 32 + 2 * 16) + 3 * 32 * 48)
    assert found.work["prefill"]["bytes"] > bytes_per_weight * matrices


def test_a_random_model_of_an_unknown_size_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown preset 'openvla-8b'; did you mean 'openvla-7b'"):
        bench_random("openvla-8b")
