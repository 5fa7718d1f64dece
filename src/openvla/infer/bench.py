"""How fast a policy answers here: percentiles by phase after a warm-up, beside the floor that this machine allows."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from openvla.codec.published import images_of
from openvla.errors import UsageError, lookup
from openvla.infer.engine import Engine, Limits
from openvla.infer.loading import random_packed
from openvla.infer.policy import LocalPolicy
from openvla.infer.roofline import measure_machine, work_of
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA
from openvla.nn import amx
from openvla.nn.hardware import DTYPES, multiplies_bf16, pick_device
from openvla.nn.quantized import PRECISIONS, QuantizedLinear
from openvla.spec import Observation

PERCENTILES = (50, 90, 99)
RANDOM_PROMPT = 24
"""Tokens of the prompt that a random model is given, as many as a usual instruction makes."""
RANDOM_TOKENS = 7
COUNTS = ("passes", "tokens_per_pass")
"""Entries of `timing_ms` that are no times."""


@dataclass(frozen=True)
class Benchmark:
    """phases_ms: phase -> percentile ("p50", ...) -> milliseconds; the phase "total" is the whole call.

    precision: of the decoder's matrices. dtype: of everything else. passes: over the decoder per call, mean.
    work: phase -> {"bytes", "flops", "floor_ms"}. floor_fraction: the sum of the floors over that of these medians.
    copy_bytes_per_s, matmul_flops_per_s: measured rates of this machine, behind the floors.
    """

    parameters: int
    precision: str
    dtype: str
    batch: int
    runs: int
    phases_ms: dict[str, dict[str, float]]
    actions_per_s: float
    passes: float
    peak_memory_bytes: int
    work: dict[str, dict[str, int | float]]
    floor_ms: float
    floor_fraction: float
    copy_bytes_per_s: float
    matmul_flops_per_s: float
    date: str
    hardware: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is measured. call: answer once and return `timing_ms`. prompt: tokens per observation."""

    engine: Engine
    call: Callable[[], Mapping[str, float]]
    batch: int
    prompt: int


def bench_inference(policy: LocalPolicy, *, runs: int = 100, warmup: int = 10, batch: int = 1) -> Benchmark:
    """Time `runs` calls of `policy.act_batch` on random images, `warmup` calls not counted.

    Images are of the policy's own size, so that resizing is not measured, and new in every call, so that guesses from
    earlier actions do not help more than they would. Raises UsageError for numbers below 1.
    """
    _check(runs, warmup, batch)
    random, size = np.random.default_rng(0), policy.codec.images.size

    def call() -> Mapping[str, float]:
        images = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        return policy.act_batch([Observation(image, "open the drawer") for image in images])[0].timing_ms

    return measure(Subject(policy.engine, call, batch, len(policy.prompt("open the drawer"))), runs, warmup)


def bench_random(
    preset: str,
    *,
    quantize: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    runs: int = 5,
    warmup: int = 1,
    batch: int = 1,
) -> Benchmark:
    """As `bench_inference`, of a model with random weights, which are made directly in the wanted precision.

    Raises UsageError for an unknown preset, a precision without a kernel here, and weights that do not fit.
    """
    _check(runs, warmup, batch)
    chosen, place = lookup(preset, PRESETS, "preset"), pick_device(device)
    auto = torch.bfloat16 if multiplies_bf16(place) else torch.float32
    plain = lookup(dtype, {"auto": auto, **DTYPES}, "dtype")
    _start_over(place)
    model = random_packed(chosen, place, plain, quantize)
    engine = Engine(model, RANDOM_TOKENS, range(chosen.pad_token - 256, chosen.pad_token), Limits(batch))
    sizes = [encoder.image_size for encoder in chosen.model.encoders]
    transform = images_of(chosen.timm_ids, sizes, "resize-naive", f"preset {preset!r}")
    random, prompt = np.random.default_rng(0), list(range(1, RANDOM_PROMPT + 1))

    def call() -> Mapping[str, float]:
        images = random.integers(0, 256, (batch, sizes[0], sizes[0], 3), dtype=np.uint8)
        start = time.perf_counter()
        pixels = torch.from_numpy(np.stack([transform(image) for image in images]))
        pixels = pixels.repeat(1, chosen.model.images, 1, 1)
        ready = time.perf_counter()
        done = engine.act([prompt] * batch, pixels)
        decoded = time.perf_counter()
        done.tokens.cpu()
        end = time.perf_counter()
        seconds = {"preprocess": ready - start, **done.seconds, "post": end - decoded, "total": end - start}
        return {**{phase: 1000 * value for phase, value in seconds.items()}, "passes": done.passes}

    return measure(Subject(engine, call, batch, RANDOM_PROMPT), runs, warmup)


def measure(subject: Subject, runs: int, warmup: int) -> Benchmark:
    """Time `runs` calls after `warmup` others."""
    engine = subject.engine
    for _ in range(warmup):
        subject.call()
    start = time.perf_counter()
    rows = [subject.call() for _ in range(runs)]
    elapsed = time.perf_counter() - start
    times = {phase: percentiles([row[phase] for row in rows]) for phase in rows[0] if phase not in COUNTS}
    passes = float(np.mean([row["passes"] for row in rows]))
    peak = peak_memory(engine.device)
    machine = measure_machine(engine.device, engine.dtype)
    work = work_of(engine, subject.batch, subject.prompt, round(passes))
    floors = {phase: 1000 * machine.floor_s(each) for phase, each in work.items()}
    return Benchmark(
        parameters=parameters(engine.model),
        precision=precision_of(engine.model),
        dtype=str(engine.dtype).removeprefix("torch."),
        batch=subject.batch,
        runs=runs,
        phases_ms=times,
        actions_per_s=runs * subject.batch / elapsed,
        passes=passes,
        peak_memory_bytes=peak,
        work={phase: {**asdict(each), "floor_ms": floors[phase]} for phase, each in work.items()},
        floor_ms=sum(floors.values()),
        floor_fraction=sum(floors.values()) / sum(times[phase]["p50"] for phase in floors),
        copy_bytes_per_s=machine.copy,
        matmul_flops_per_s=machine.matmul,
        date=time.strftime("%Y-%m-%d"),
        hardware=hardware(engine.device),
        versions={"torch": torch.__version__, "python": platform.python_version()},
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The value at each of `PERCENTILES`."""
    return {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}


def parameters(model: OpenVLA) -> int:
    """Weights of a packed model, however few bits each takes."""
    quantized = sum(layer.rows * layer.columns for layer in model.modules() if isinstance(layer, QuantizedLinear))
    return quantized + sum(parameter.numel() for parameter in model.parameters())


def precision_of(model: OpenVLA) -> str:
    """How the decoder's matrices are held: a key of `PRECISIONS`, or the plain dtype."""
    kinds = {type(module) for module in model.modules()}
    plain = str(model.language_model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    return next((name for name, kind in PRECISIONS.items() if kind in kinds), plain)


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hardware(device: torch.device) -> str:
    """The device's name, or the processor's, the number of its threads in use, and whether it has kernels for AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kernels = ", kernels for AMX" if amx.available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads{kernels}"


def _start_over(device: torch.device) -> None:
    """Give back what an earlier policy held on the GPU, and forget its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _check(runs: int, warmup: int, batch: int) -> None:
    if min(runs, batch) < 1 or warmup < 0:
        raise UsageError(f"runs is {runs}, batch {batch}, warmup {warmup}; give numbers from 1, and a warm-up from 0")
