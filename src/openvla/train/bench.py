"""A training step, measured: the most memory that is held at once, and the time it takes.

The step is the one of `loop`, on random weights and random batches, so nothing has to be loaded. On a GPU the peak is
that of the caching allocator. On a CPU it is summed up from the profiler's record of every allocation that torch makes,
since the resident size of a process also holds the interpreter, and what the C library has not given back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from openvla.codec.actions import ActionTokenizer
from openvla.codec.batch import IGNORE_INDEX
from openvla.codec.codec import Codec
from openvla.codec.published import images_of
from openvla.errors import UsageError
from openvla.model.checkpoint import Checkpoint
from openvla.model.presets import Preset
from openvla.model.prismatic import OpenVLA
from openvla.train.census import census
from openvla.train.config import TrainConfig
from openvla.train.loop import Run, arrange
from openvla.train.memory import Load
from openvla.train.plan import training_flops
from openvla.train.scores import Origin
from openvla.train.setup import check, pick_precision
from openvla.train.signals import Termination
from openvla.train.world import connect


@dataclass(frozen=True)
class Measured:
    """held_bytes: weights and optimiser, between steps. peak_bytes: the most within a step, these included.

    step_s: the median. flops_per_s: the model's operations (`plan.training_flops`) over that time.
    """

    held_bytes: int
    peak_bytes: int
    step_s: float
    flops_per_s: float


def bench_training(preset: Preset, config: TrainConfig, load: Load, steps: int = 3, warmup: int = 2) -> Measured:
    """Train for a few steps in this process; `load` says how many ids an example has, and how many of them labels.

    config: the run; of its data and output nothing is read or written.
    Raises UsageError for settings that no run can have.
    """
    check(config)
    if steps < 1 or warmup < 1:  # the first step makes the optimiser's moments, and is not like the others
        raise UsageError(f"steps is {steps} and warmup {warmup}; give whole numbers from 1")
    with connect(config.device, {}, config.preflight_timeout_s) as world, tempfile.TemporaryDirectory() as place:
        config = replace(config, output=Path(place), resume=False)
        precision = pick_precision(config.precision, world.device)
        checkpoint = Checkpoint(random_model(preset, world.device), _codec(preset), {})
        module = arrange(checkpoint, config, world, precision)
        run = Run(config, world, checkpoint, "", module, precision, [Origin("data", None)], Termination())
        batch = _batch(preset, load, config.batch_size // world.size)

        def step() -> None:
            run.train_step(batch)

        for _ in range(warmup):
            step()
        held, peak = _cuda_peak(step) if world.device.type == "cuda" else _cpu_peak(run, step)
        step_s = float(np.median([_seconds(step) for _ in range(steps)]))
        run.saver.close()
        if run.log is not None:
            run.log.close()
    counted = census(preset.model, config.method, config.rank)
    flops = config.batch_size * training_flops(preset.model, counted, load.text_tokens)
    return Measured(held, peak, step_s, flops / step_s)


def random_model(preset: Preset, device: torch.device) -> OpenVLA:
    """A model in bfloat16, as published ones are stored, made where it is needed: normal weights, norms of one."""
    with torch.device("meta"):
        model = OpenVLA(preset.model).bfloat16()
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02, generator=generator)
            else:
                parameter.fill_(1)
    return model


def _codec(preset: Preset) -> Codec:
    sizes = [encoder.image_size for encoder in preset.model.encoders]
    images = images_of(preset.timm_ids, sizes, "resize-naive", "the preset")
    return Codec(ActionTokenizer(preset.pad_token), images, pad_token_id=preset.pad_token)


def _batch(preset: Preset, load: Load, examples: int) -> dict[str, Tensor]:
    size, tokens = preset.model.encoders[0].image_size, preset.pad_token
    ids = torch.randint(tokens - 256, tokens, (examples, load.text_tokens))
    labels = ids.clone()
    labels[:, : -load.supervised] = IGNORE_INDEX
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "source": torch.zeros(examples, dtype=torch.int64),
        "pixel_values": torch.randint(0, 256, (examples, 1, size, size, 3), dtype=torch.uint8),
    }


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _cuda_peak(step: Callable[[], None]) -> tuple[int, int]:
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return held, torch.cuda.max_memory_allocated()


def _cpu_peak(run: Run, step: Callable[[], None]) -> tuple[int, int]:
    """What is held between steps, and the most within one."""
    moments: Any = run.optimizer.state.values()
    packed: list[Any] = [getattr(parameter, "quant_state", None) for parameter in run.module.parameters()]
    scales = [vars(state) for state in packed if state is not None]
    found = [*run.module.parameters(), *(value for held in (*moments, *scales) for value in held.values())]
    tensors = [each.to_local() if isinstance(each, DTensor) else each for each in found if isinstance(each, Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    held = sum(storages.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events: Any = record.profiler
    changes = (event.nbytes() for event in events.kineto_results.events() if event.name() == "[memory]")
    return held, held + max(accumulate(changes), default=0)
