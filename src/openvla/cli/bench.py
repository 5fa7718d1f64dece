"""`openvla bench inference`, and `openvla bench` for short: how fast a policy answers on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openvla.cli.output import Result, table
from openvla.errors import OpenVLAError, UsageError

if TYPE_CHECKING:
    from openvla.infer.bench import Benchmark

SWEEP_PRECISIONS: tuple[Literal["int8", "fp8", "int4"] | None, ...] = (None, "int8", "fp8", "int4")
SWEEP_BATCHES = (1, 4, 16)


@dataclass(frozen=True)
class Options:
    """Time a policy's answers: percentiles by phase, actions per second, peak memory, and the floor of this machine."""

    checkpoint: str | None = None
    """A hub id, a checkpoint directory, or a shipped name; "nano" where no preset is given."""
    preset: str | None = None
    """With --random: the sizes of a model, such as openvla-7b, instead of a checkpoint."""
    random: bool = False
    """Random weights, made directly in the wanted precision: no checkpoint is needed."""
    quantize: Literal["int8", "int4", "fp8"] | None = None
    """Hold the decoder's weights in fewer bits."""
    all: bool = False
    """Measure every precision with batches of 1, 4 and 16, one after the other."""
    observations: Path | None = None
    """With --all: an RLDS data set on which the checkpoint in each precision is compared with its plain weights."""
    compared: int = 200
    """Images of --observations to compare on."""
    runs: int | None = None
    """Calls that are timed; 100, or 5 with --random."""
    warmup: int | None = None
    """Calls before them that are not; 10, or 1 with --random."""
    batch: int = 1
    """Observations per call."""
    speculate: bool | None = None
    """Check guesses of the next action in each pass; by default where that measures faster."""
    dtype: str = "auto"
    """bf16, fp16, fp32; auto keeps the stored one where the hardware has it."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Load, measure, and hand back the figures."""
    if options.random != (options.preset is not None) or (options.random and options.checkpoint is not None):
        raise UsageError("--preset and --random go together, without --checkpoint: `--preset openvla-7b --random`")
    if options.all:
        rows = list(_sweep(options))
        return Result({"rows": rows}, _sweep_text(rows))
    found = _measured(options)
    return Result(found.to_dict(), _readable(options, found))


def _measured(options: Options) -> Benchmark:
    from openvla.infer.bench import bench_inference, bench_random
    from openvla.infer.policy import load_policy

    common: dict[str, Any] = {"device": options.device, "dtype": options.dtype, "quantize": options.quantize}
    runs, warmup = (5, 1) if options.random else (100, 10)
    times: dict[str, Any] = {
        "runs": runs if options.runs is None else options.runs,
        "warmup": warmup if options.warmup is None else options.warmup,
        "batch": options.batch,
    }
    if options.preset is not None:
        return bench_random(options.preset, **common, **times)
    policy = load_policy(
        options.checkpoint or "nano", **common, speculate=options.speculate, max_batch=max(64, options.batch)
    )
    return bench_inference(policy, **times)


def _sweep(options: Options) -> Iterator[dict[str, Any]]:
    """A row per precision and batch; what cannot be measured here says why."""
    for precision in SWEEP_PRECISIONS:
        for batch in SWEEP_BATCHES:
            try:
                found = _measured(replace(options, quantize=precision, batch=batch))
            except OpenVLAError as error:
                yield {"precision": precision or "plain", "batch": batch, "not_measured": str(error)}
                break
            yield {**found.to_dict(), "agreement": _agreement(options, precision) if batch == 1 else None}


def _agreement(options: Options, precision: str | None) -> dict[str, float] | None:
    """How a precision's answers differ from those of the plain weights on stored images."""
    if options.observations is None or precision is None or options.random:
        return None
    from openvla.infer.agreement import compare, stored_observations
    from openvla.infer.policy import load_policy

    source = options.checkpoint or "nano"
    plain = load_policy(source, device=options.device, dtype=options.dtype)
    other = load_policy(source, device=options.device, dtype=options.dtype, quantize=precision)
    return asdict(compare(plain, other, stored_observations(options.observations, options.compared)))


def _readable(options: Options, found: Benchmark) -> str:
    rows = [
        (phase, *(f"{value:.2f}" for value in times.values()), _floor(found, phase))
        for phase, times in found.phases_ms.items()
    ]
    name = options.preset or options.checkpoint or "nano"
    return (
        f"{name}: {found.parameters / 1e6:.1f} M parameters, {found.precision}, batch {found.batch}\n"
        f"{found.date}, {found.hardware}, torch {found.versions['torch']}\n\n"
        f"{table(('phase', 'p50 ms', 'p90 ms', 'p99 ms', 'floor ms'), rows)}\n\n"
        f"{found.actions_per_s:.1f} actions/s, {found.passes:.2f} decoder passes per action, "
        f"peak memory {found.peak_memory_bytes / 2**20:.0f} MiB\n"
        f"this machine copies {found.copy_bytes_per_s / 1e9:.1f} GB/s and multiplies "
        f"{found.matmul_flops_per_s / 1e12:.2f} TFLOP/s: {found.floor_fraction:.0%} of the floor's speed"
    )


def _floor(found: Benchmark, phase: str) -> str:
    if phase == "total":
        return f"{found.floor_ms:.2f}"
    return f"{found.work[phase]['floor_ms']:.2f}" if phase in found.work else "-"


def _sweep_text(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["precision"],
            row["batch"],
            *(f"{row['phases_ms']['total'][p]:.1f}" for p in ("p50", "p99")),
            f"{row['floor_ms']:.1f}",
            f"{row['actions_per_s']:.1f}",
            f"{row['passes']:.2f}",
            f"{row['peak_memory_bytes'] / 1e9:.1f}",
            f"{row['agreement']['tokens']:.1%}" if row["agreement"] else "-",
            f"{row['agreement']['action']:.4f}" if row["agreement"] else "-",
        )
        for row in rows
        if "not_measured" not in row
    ]
    times = ("p50 ms", "p99 ms", "floor ms", "actions/s")
    columns = ("precision", "batch", *times, "passes", "GB", "tokens", "difference")
    missing = [f"{row['precision']}: not measured, {row['not_measured']}" for row in rows if "not_measured" in row]
    return "\n".join([table(columns, cells), "", *missing]).rstrip()
