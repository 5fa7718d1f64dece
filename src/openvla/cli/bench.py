"""`openvla bench`: how fast a policy answers on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from openvla.cli.output import Result, table


@dataclass(frozen=True)
class Options:
    """Time a policy's answers: percentiles by phase, actions per second, peak memory."""

    checkpoint: str = "nano"
    """A hub id, a checkpoint directory, or a shipped name such as "nano"."""
    runs: int = 100
    """Calls that are timed."""
    warmup: int = 10
    """Calls before them that are not."""
    batch: int = 1
    """Observations per call."""
    dtype: str = "auto"
    """bf16, fp16, fp32; auto keeps the stored one where the hardware has it."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Load, measure, and hand back the figures."""
    from openvla.infer.bench import bench_inference
    from openvla.infer.policy import load_policy

    policy = load_policy(options.checkpoint, device=options.device, dtype=options.dtype)
    found = bench_inference(policy, runs=options.runs, warmup=options.warmup, batch=options.batch)
    rows = [(phase, *(f"{value:.2f}" for value in times.values())) for phase, times in found.phases_ms.items()]
    text = (
        f"{options.checkpoint}: {found.parameters / 1e6:.1f} M parameters, {found.dtype}, batch {found.batch}\n"
        f"{found.date}, {found.hardware}, torch {found.versions['torch']}\n\n"
        f"{table(('phase', 'p50 ms', 'p90 ms', 'p99 ms'), rows)}\n\n"
        f"{found.actions_per_s:.1f} actions/s, peak memory {found.peak_memory_bytes / 2**20:.0f} MiB"
    )
    return Result(found.to_dict(), text)
