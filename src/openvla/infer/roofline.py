"""What an answer must move and multiply, how fast this machine does both, and so how long it takes at the very least.

Each phase takes at least as long as reading its weights and cache once per pass at the machine's copy rate, and at
least as long as its multiplications at the machine's rate for bfloat16 (float32 where the model is that): its floor is
the longer of the two. Both rates are measured, not read from a data sheet.

Source: Williams et al. 2009 (roofline).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from openvla.infer.engine import Engine


@dataclass(frozen=True)
class Work:
    """What one phase must do. bytes: read from memory. flops: floating-point (or integer) operations."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Machine:
    """copy: bytes read plus bytes written per second. matmul: operations per second."""

    copy: float
    matmul: float

    def floor_s(self, work: Work) -> float:
        """Seconds that `work` takes at least."""
        return max(work.bytes / self.copy, work.flops / self.matmul)


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The best of a few copies of 1 GB (256 MB on a CPU) and of a few square matrix products."""
    gpu = device.type == "cuda"
    source = torch.ones((1 << 30) if gpu else (1 << 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = 8192 if gpu else 2048
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    return Machine(
        copy=2 * source.nbytes / _best(lambda: target.copy_(source), device),
        matmul=2 * side**3 / _best(lambda: matrix @ matrix, device),
    )


def work_of(engine: Engine, rows: int, prompt: int, passes: int) -> dict[str, Work]:
    """The work of one call, by phase, for `rows` observations with `prompt` tokens each and `passes` in all."""
    model, config = engine.model, engine.model.config
    decoder, patches = config.decoder, config.num_patches
    seen = _bytes(model.vision_backbone) + _bytes(model.projector)
    multiplied = sum((e.depth - 1) * (4 * e.dim**2 + 2 * e.dim * e.mlp_dim) for e in config.encoders)
    multiplied = rows * (patches * multiplied + patches * sum(p.numel() for p in model.projector.parameters()))
    head = len(engine.choices) * decoder.hidden_size
    kv_dim = decoder.num_key_value_heads * decoder.head_dim
    gated = 2 if decoder.family == "phi" else 3
    layer = decoder.hidden_size * (2 * decoder.hidden_size + 2 * kv_dim + gated * decoder.intermediate_size)
    matrices, weights = layer * decoder.num_hidden_layers, _bytes(model.language_model.model.layers)
    length = patches + prompt
    looked = 2 * length * decoder.hidden_size * decoder.num_hidden_layers  # scores and mixing, per query
    cached = 2 * rows * length * kv_dim * decoder.num_hidden_layers * engine.dtype.itemsize
    later = passes - 1
    return {
        "vision": Work(seen, 2 * multiplied),
        "prefill": Work(weights + head * engine.dtype.itemsize, 2 * rows * (length * (matrices + looked // 2) + head)),
        "decode": Work(
            later * (weights + head * engine.dtype.itemsize + cached), later * 2 * rows * (matrices + head + looked)
        ),
    }


def _bytes(module: torch.nn.Module) -> int:
    """Memory of a module's tensors. A tensor in the order of a kernel has the size of its plain form."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def _best(function: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of a few calls, the device's queue drained around each."""
    seconds: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
