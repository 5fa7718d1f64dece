"""Measure training steps on one device, each beside what `openvla plan` says: peak memory, step time, MFU.

    python scripts/measure_training.py                                  a 7B model on a GPU of 80 GB or more, 4 minutes
    python scripts/measure_training.py --preset nano --device cpu       the same rows, small
    python scripts/measure_training.py --grid --device cpu              the table of docs/performance.md, all on the CPU

Weights and batches are random, made where they are needed. Each row is printed as one JSON object. On a GPU it runs in
a process of its own, so that none inherits the memory of another; one that fails is printed with its error, and the
others go on. MFU is the model's operations (forward and backward as far as the method needs them, nothing computed
twice) per second, over `--tflops`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from openvla.model.presets import PRESETS, Preset
from openvla.train.bench import bench_training
from openvla.train.config import TrainConfig
from openvla.train.memory import Load
from openvla.train.plan import Hardware, plan

RANK = 32
GRID_METHODS = ("full", "frozen-vision", "last-layer", "sandwich", "lora", "qlora")


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement."""

    preset: str
    device: str
    method: Literal["full", "frozen-vision", "last-layer", "sandwich", "lora", "qlora"]
    batch: int
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = False
    compile: bool = False
    accumulate: int = 1


def gpu_rows(preset: str, device: str) -> list[Row]:
    """LoRA at batch 16, recomputed and compiled or not, and QLoRA at batch 1; what compiles comes last."""
    plain = [Row(preset, device, method, 16 if method == "lora" else 1) for method in ("lora", "qlora")]
    rows = [dataclasses.replace(row, checkpointing=flag) for row in plain for flag in (False, True)]
    return [*rows, *(dataclasses.replace(row, compile=True) for row in rows if row.method == "lora")]


def grid_rows(device: str) -> Iterator[Row]:
    """Every method in both precisions."""
    for method in GRID_METHODS:
        for precision in ("fp32", "bf16"):
            for batch in (1, 4, 16):
                yield Row("middling", device, method, batch, precision)
            yield Row("middling", device, method, 4, precision, checkpointing=True)
            yield Row("middling", device, method, 8, precision, accumulate=2)


def preset_of(name: str) -> Preset:
    """A preset, or "middling": 53 million parameters, of which AdamW makes 630 MB."""
    if name != "middling":
        return PRESETS[name]
    nano = PRESETS["nano"]
    encoder = dataclasses.replace(nano.model.encoders[0], patch_size=14, dim=384, mlp_dim=1536, attention_pool=True)
    decoder = dataclasses.replace(
        nano.model.decoder,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=8,
        num_attention_heads=10,
        num_key_value_heads=10,
    )
    return dataclasses.replace(nano, model=dataclasses.replace(nano.model, encoders=(encoder,), decoder=decoder))


def measure(row: Row, tflops: float, steps: int) -> dict[str, Any]:
    """Figures of a row: what was measured, and the plan's peak with and without its margin."""
    preset = preset_of(row.preset)
    load = Load(row.batch, precision=row.precision, checkpointing=row.checkpointing, accumulate=row.accumulate)
    config = TrainConfig(
        data=Path("nowhere"),
        output=Path("nowhere"),
        checkpoint="random",
        method=row.method,
        rank=RANK,
        precision=row.precision,
        batch_size=row.batch,
        accumulate=row.accumulate,
        checkpoint_activations=row.checkpointing,
        compile=row.compile,
        device=row.device,
    )
    found = bench_training(preset, config, load, steps=steps)
    planned = plan(preset.model, row.method, RANK, load, Hardware())["memory_bytes"]
    return {
        "peak_gb": found.peak_bytes / 1e9,
        "planned_peak_gb": planned["peak"] / 1e9,
        "planned_without_margin_gb": (planned["peak"] - planned["margin"]) / 1e9,
        "held_gb": found.held_bytes / 1e9,
        "step_s": found.step_s,
        "samples_per_s": row.batch / found.step_s,
        "mfu": found.flops_per_s / (tflops * 1e12),
    }


def main() -> None:
    """Parse, and run each row in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="openvla-7b", help="sizes of the model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tflops", type=float, default=989.0, help="dense bf16 operations of the device, 10^12 a second"
    )
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--grid", action="store_true", help="all methods of a small model")
    parser.add_argument("--limit-s", type=float, default=120.0, help="longest time for one row")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        print(json.dumps(measure(Row(**json.loads(options.row)), options.tflops, options.steps)))
        return
    for row in grid_rows(options.device) if options.grid else gpu_rows(options.preset, options.device):
        described = dataclasses.asdict(row)
        here = options.grid and options.device == "cpu"  # where what else the process holds is not counted
        found = measure(row, options.tflops, options.steps) if here else _apart(json.dumps(described), options)
        print(json.dumps(described | found), flush=True)


def _apart(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own prints for `row`, or the last line of its error."""
    words = [sys.executable, __file__, "--row", row, "--tflops", str(options.tflops), "--steps", str(options.steps)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=options.limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {options.limit_s:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
