"""Everything about inference on a GPU in one run: are the kernels right, how fast is each, how fast is an action.

    python scripts/measure_inference.py OUT [--quick]

Writes OUT/inference.json and prints tables. What fails is printed in one line, and the rest goes on. The floor beside
each figure is the time of reading the weights at the copy rate that the same run measures (`infer/roofline.py`).
"""

# ruff: noqa: B023  (functions made in a loop are called before its next turn)

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla.infer.bench import bench_random
from openvla.infer.roofline import Machine, measure_machine
from openvla.nn import gpu_kernels, gpu_row
from openvla.nn.decoder_layers import RMSNorm
from openvla.nn.quantized import PRECISIONS, Fp8Linear, Int4Linear, Int8Linear, QuantizedLinear

HIDDEN, MIDDLE, COPIES = 4096, 11008, 6
MATRICES = {
    "qkv": (3 * HIDDEN, HIDDEN),
    "out": (HIDDEN, HIDDEN),
    "gate_up": (2 * MIDDLE, HIDDEN),
    "down": (HIDDEN, MIDDLE),
}
SHAPES = {
    16: [(4, 1024, 4), (2, 1024, 4), (8, 512, 4), (4, 512, 2), (4, 2048, 8), (8, 1024, 8), (1, 2048, 4)],
    8: [(4, 2048, 4), (4, 1024, 4), (4, 1024, 2), (8, 1024, 4), (2, 2048, 4), (4, 512, 1), (8, 512, 1), (4, 4096, 8)],
    4: [(4, 128, 4), (8, 128, 4), (2, 128, 4), (4, 64, 2), (8, 64, 2), (4, 32, 1), (8, 32, 1), (4, 256, 8)],
}
REPEATS = 30


def main() -> None:
    """All parts, one after the other."""
    out = Path(sys.argv[1])
    quick = "--quick" in sys.argv
    device = torch.device("cuda")
    torch.manual_seed(0)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    machine = measure_machine(device, torch.bfloat16)
    found |= {"copy_bytes_per_s": machine.copy, "matmul_flops_per_s": machine.matmul}
    print(f"{found['device']}: copies {machine.copy / 1e12:.2f} TB/s, multiplies {machine.matmul / 1e12:.0f} TFLOP/s")
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("checks", lambda: list(checks())),
        ("actions", lambda: list(actions(quick))),
        ("rows", lambda: list(one_row(machine, quick))),
        ("few", lambda: list(few_rows(machine))),
        ("many", lambda: list(many_rows(machine))),
        ("small", lambda: list(small_steps())),
    ]
    for name, part in parts:
        start = time.perf_counter()
        found[name] = part()
        print(f"-- {name}: {time.perf_counter() - start:.0f} s", flush=True)
        (out / "inference.json").write_text(json.dumps(found, indent=1))


def attempt(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` found, or the first line of what went wrong; printed."""
    try:
        row = {"name": name, **work()}
    except Exception as error:  # one variant that fails must not end the run
        row = {"name": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print("  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()), flush=True)
    return row


def timed(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds of one call, in a graph that replays all of them in turn: weights are not in the cache when read."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    graph.replay()
    for mark in marks:
        mark.record()
        graph.replay()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) for start, end in itertools.pairwise(marks))
    return times[len(times) // 2] / 1000 / len(calls)


def layers(kind: type[QuantizedLinear] | None, shape: tuple[int, int], copies: int = COPIES) -> list[nn.Module]:
    """Layers of random weights, together larger than the cache of the GPU."""
    made: list[nn.Module] = []
    for _ in range(copies):
        weight = torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02
        if kind is not None:
            made.append(kind.of(weight))
        else:
            layer = nn.Linear(shape[1], shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(weight, requires_grad=False)
            made.append(layer)
    return made


def size(layer: nn.Module) -> int:
    """Bytes of a layer's weights."""
    tensors = list(layer.buffers()) or [layer.get_parameter("weight")]
    return sum(each.nbytes for each in tensors)


def dense(layer: nn.Module) -> Tensor:
    """The weight in float32."""
    if isinstance(layer, Int4Linear):
        return gpu_kernels.unpack(layer.levels, layer.steps).float()[: layer.rows, : layer.columns]
    if isinstance(layer, Int8Linear | Fp8Linear):
        return layer.weight.float() * layer.scale.flatten()[:, None]
    return layer.get_parameter("weight").float()


def apart(found: Tensor, wanted: Tensor) -> float:
    """The relative difference of the whole."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def norm_of(size: int) -> RMSNorm:
    """A norm with random weights."""
    norm = RMSNorm(size, 1e-5).to("cuda", torch.bfloat16)
    norm.requires_grad_(False)
    norm.weight.copy_(torch.randn(size))
    return norm


def checks() -> Iterator[dict[str, Any]]:
    """Relative errors of every product against float32."""
    for precision, kind in {"bf16": None, **PRECISIONS}.items():
        for n, k in [(HIDDEN, HIDDEN), (2 * 688, 1500), *MATRICES.values()]:
            (layer,) = layers(kind, (n, k), 1)
            x, add = (torch.randn(each, device="cuda", dtype=torch.bfloat16) for each in (k, n))
            norm = norm_of(k)
            exact = dense(layer)

            def one() -> dict[str, Any]:
                normed, halves = exact @ norm(x).float(), (exact @ norm(x).float()).chunk(2)
                return {
                    "plain": apart(gpu_row.product(x, layer), exact @ x.float()),
                    "normed": apart(gpu_row.product(x, layer, norm, add), normed + add),
                    "gated": apart(gpu_row.product(x, layer, norm, gated=True), F.silu(halves[0]) * halves[1]),
                }

            yield attempt(f"check {precision} {n}x{k} one row", one)
            for rows in (5, 16, 288):
                many = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
                yield attempt(
                    f"check {precision} {n}x{k} {rows} rows",
                    lambda: {"error": apart(layer(many), many.float() @ exact.t())},
                )


def one_row(machine: Machine, quick: bool) -> Iterator[dict[str, Any]]:
    """Microseconds of a product with one row, by the shape of its programs."""
    for kind in (None, *([Int8Linear, Int4Linear] if quick else PRECISIONS.values())):
        bits = 16 if kind is None else int(kind.bits)
        for name, shape in MATRICES.items():
            made = layers(kind, shape)
            x = torch.randn(shape[1], device="cuda", dtype=torch.bfloat16)
            add, norm, gated = (
                torch.randn(shape[0], device="cuda", dtype=torch.bfloat16),
                norm_of(shape[1]),
                name == "gate_up",
            )
            floor = size(made[0]) / machine.copy
            if kind is None:
                yield attempt(
                    f"row bf16 {name} cublas",
                    lambda: figures(
                        timed([lambda layer=layer: F.linear(x, layer.get_parameter("weight")) for layer in made]), floor
                    ),
                )
            usual = gpu_row.SHAPES[bits]
            for each in SHAPES[bits][:3] if quick else SHAPES[bits]:
                gpu_row.SHAPES[bits] = each
                given: Any = {
                    "norm": norm if name in ("qkv", "gate_up") else None,
                    "add": add if name in ("out", "down") else None,
                }
                yield attempt(
                    f"row {bits if kind is None else kind.__name__} {name} {each}",
                    lambda: figures(
                        timed([lambda layer=layer: gpu_row.product(x, layer, gated=gated, **given) for layer in made]),
                        floor,
                    ),
                )
            gpu_row.SHAPES[bits] = usual


def few_rows(machine: Machine) -> Iterator[dict[str, Any]]:
    """The same for 16 rows."""
    yield from by_rows(machine, (16,))


def many_rows(machine: Machine) -> Iterator[dict[str, Any]]:
    """The same for a prompt of one robot and of sixteen."""
    yield from by_rows(machine, (288, 16 * 288))


def by_rows(machine: Machine, counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Microseconds of the products of a layer, as `forward` does them."""
    for precision, kind in {"bf16": None, **PRECISIONS}.items():
        for name, shape in MATRICES.items():
            made = layers(kind, shape)
            for rows in counts:
                x = torch.randn(rows, shape[1], device="cuda", dtype=torch.bfloat16)
                floor = max(size(made[0]) / machine.copy, 2 * rows * shape[0] * shape[1] / machine.matmul)
                yield attempt(
                    f"rows {rows} {precision} {name}",
                    lambda: figures(timed([lambda layer=layer: layer(x) for layer in made]), floor),
                )


def small_steps() -> Iterator[dict[str, Any]]:
    """Attention of one token, norms, gates."""
    cos = torch.rand(320, 128, device="cuda", dtype=torch.bfloat16)
    for rows in (1, 16):
        keys, values = (torch.randn(8, rows, 32, 320, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        qkv = torch.randn(rows, 3 * HIDDEN, device="cuda", dtype=torch.bfloat16)
        at = torch.full((rows, 1), 285, device="cuda")
        calls = [
            lambda k=k, v=v: gpu_row.attend(qkv, cos, cos, k, v, at, 32) for k, v in zip(keys, values, strict=True)
        ]
        yield attempt(f"attend {rows}", lambda: {"us": 1e6 * timed(calls)})
    for rows in (1, 16, 288):
        x, norm = torch.randn(rows, HIDDEN, device="cuda", dtype=torch.bfloat16), norm_of(HIDDEN)
        wide = torch.randn(rows, 2 * MIDDLE, device="cuda", dtype=torch.bfloat16)
        yield attempt(
            f"norm {rows}", lambda: {"us": 1e6 * timed([lambda: gpu_kernels.rms_norm(x, norm.weight, 1e-5, x)] * 8)}
        )
        yield attempt(f"swiglu {rows}", lambda: {"us": 1e6 * timed([lambda: gpu_kernels.swiglu(wide)] * 8)})


def figures(seconds: float, floor: float) -> dict[str, Any]:
    """A time beside its floor."""
    return {"us": 1e6 * seconds, "floor_us": 1e6 * floor, "of_floor": floor / seconds}


def actions(quick: bool) -> Iterator[dict[str, Any]]:
    """Whole actions of 7 tokens by phase, 7 B, random weights."""
    for batch in (1,) if quick else (1, 16):
        for precision in (None, *PRECISIONS):

            def work() -> dict[str, Any]:
                found = bench_random("openvla-7b", quantize=precision, device="cuda", runs=20, warmup=4, batch=batch)
                phases = {phase: times["p50"] for phase, times in found.phases_ms.items()}
                return {**phases, "floor": found.floor_ms, "p99": found.phases_ms["total"]["p99"],
                        "actions_per_s": found.actions_per_s, "memory_gb": found.peak_memory_bytes / 1e9}  # fmt: skip

            yield attempt(f"action {precision or 'bf16'} batch {batch}", work)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
