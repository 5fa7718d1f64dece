"""How fast a policy answers here: percentiles by phase, after a warm-up, with the hardware and versions beside them."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from openvla.errors import UsageError
from openvla.infer.policy import LocalPolicy
from openvla.spec import Observation

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Benchmark:
    """phases_ms: phase -> percentile ("p50", ...) -> milliseconds; the phase "total" is the whole call."""

    parameters: int
    dtype: str
    batch: int
    runs: int
    phases_ms: dict[str, dict[str, float]]
    actions_per_s: float
    peak_memory_bytes: int
    date: str
    hardware: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def bench_inference(policy: LocalPolicy, *, runs: int = 100, warmup: int = 10, batch: int = 1) -> Benchmark:
    """Time `runs` calls of `policy.act_batch` on random images, `warmup` calls not counted.

    Images are of the policy's own size, so that resizing is not measured. Raises UsageError for numbers below 1.
    """
    if min(runs, batch) < 1 or warmup < 0:
        raise UsageError(f"runs is {runs}, batch {batch}, warmup {warmup}; give numbers from 1, and a warm-up from 0")
    random = np.random.default_rng(0)
    size = policy.codec.images.size
    observations = [
        Observation(random.integers(0, 256, (size, size, 3), dtype=np.uint8), "open the drawer") for _ in range(batch)
    ]
    for _ in range(warmup):
        policy.act_batch(observations)
    start = time.perf_counter()
    rows = [policy.act_batch(observations)[0].timing_ms for _ in range(runs)]
    elapsed = time.perf_counter() - start
    weight = policy.model.projector.fc1.weight
    return Benchmark(
        parameters=sum(parameter.numel() for parameter in policy.model.parameters()),
        dtype=str(weight.dtype).removeprefix("torch."),
        batch=batch,
        runs=runs,
        phases_ms={
            phase: {f"p{p}": float(np.percentile([row[phase] for row in rows], p)) for p in PERCENTILES}
            for phase in rows[0]
        },
        actions_per_s=runs * batch / elapsed,
        peak_memory_bytes=peak_memory(weight.device),
        date=time.strftime("%Y-%m-%d"),
        hardware=hardware(weight.device),
        versions={"torch": torch.__version__, "python": platform.python_version()},
    )


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hardware(device: torch.device) -> str:
    """The device's name, or the processor's and the number of its threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
