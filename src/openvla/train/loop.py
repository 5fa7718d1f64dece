"""The training loop: one process, CPU or one GPU, exact resume.

The loss is the mean cross-entropy over the action tokens and the stop token (Kim et al. 2024, section 3.2). Weights and
optimiser are float32; with bf16 the forward pass runs under autocast. What batch a step sees depends on the step alone,
so a resumed run repeats an uninterrupted one, on a CPU bit for bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from openvla.codec.codec import Codec
from openvla.codec.statistics import select
from openvla.data.frames import Batches, Frames, split_episodes
from openvla.data.oxe import DATASETS
from openvla.data.statistics import dataset_statistics
from openvla.errors import TrainingError, UsageError, lookup
from openvla.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from openvla.model.prismatic import OpenVLA
from openvla.nn.hardware import multiplies_bf16, pick_device
from openvla.train import state
from openvla.train.config import TrainConfig
from openvla.train.fresh import PREFIX, fresh_checkpoint
from openvla.train.methods import count_parameters, merge, prepare
from openvla.train.metrics import MetricLog, action_metrics, average, matmul_rate
from openvla.train.optim import learning_rate, make_optimizer

GRADIENT_PASSES = 3
"""A backward pass costs twice a forward pass."""


@dataclass(frozen=True)
class TrainResult:
    """final: checkpoint directory of the trained model. metrics: the last values of everything logged."""

    final: Path
    metrics: dict[str, float]


def train(config: TrainConfig) -> TrainResult:
    """Run or resume `config` to its last step and save the model in `output`/final.

    Raises UsageError for bad settings, CheckpointError and DataError for bad input, TrainingError for the rest.
    """
    check(config)
    device, precision = pick_device(config.device), pick_precision(config)
    start = starting_point(config)
    checkpoint = dataclasses.replace(start, codec=with_statistics(start.codec, config))
    module = prepare(checkpoint.model, config.method, config.rank, config.seed).to(device)
    training, validation = load_frames(config, checkpoint.codec)
    state.open_run(config)
    run = Run(config, checkpoint, module, device, precision)
    return run.run(Batches(training, checkpoint.codec, config.batch_size, config.seed), validation)


class Run:
    """The moving parts of one run."""

    def __init__(
        self,
        config: TrainConfig,
        checkpoint: Checkpoint,
        module: nn.Module,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.config, self.checkpoint, self.module = config, checkpoint, module
        self.device, self.precision = device, precision
        self.model: OpenVLA = checkpoint.model
        self.trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(module, config)
        self.step = state.restore(config, checkpoint, module, self.optimizer) if config.resume else 0
        self.log = MetricLog(config.output, self.step)
        self.metrics: dict[str, float] = {}
        self.window = Window(self.model, matmul_rate(device, precision))

    def run(self, batches: Batches, validation: Batches | None) -> TrainResult:
        """Train to the last step, logging, validating and saving on the way."""
        config = self.config
        total, trainable = count_parameters(self.module)
        self.record({"parameters/total": total, "parameters/trainable": trainable})
        with tqdm(total=config.steps, initial=self.step, desc="train", unit="step", dynamic_ncols=True) as bar:
            for batch in self.window.timed(prefetched(batches, self.step, config.steps, self.device)):
                self.window.add(self.train_step(batch), batch["input_ids"].shape)
                self.step += 1
                bar.update()
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    self.record({**self.window.take(), "train/learning_rate": self.optimizer.param_groups[0]["lr"]})
                    bar.set_postfix(loss=f"{self.metrics['train/loss']:.3f}")
                if validation is not None and (self.step % config.validate_every == 0 or last):
                    self.record(self.validate(validation))
                if self.step % config.save_every == 0 or last:
                    state.save(config, self.step, self.checkpoint, self.module, self.optimizer)
        self.log.close()
        return TrainResult(self.save_final(), self.metrics)

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimiser step; nothing is changed where loss or gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        logits, targets = self.forward(batch)
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(
                f"step {self.step}: the loss is {loss.item():g} and its gradient norm {norm.item():g}; no weight was "
                f"changed; lower the learning rate ({self.config.learning_rate:g}) or check {self.config.dataset!r}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        measured = action_metrics(logits.detach(), targets, len(batch["input_ids"]), self.checkpoint.codec)
        return {"loss": loss.item(), "gradient_norm": norm.item(), **measured}

    @torch.no_grad()
    def validate(self, batches: Batches) -> dict[str, float]:
        """Loss and action metrics over the first `validation_frames` frames of the validation split."""
        count = max(1, min(self.config.validation_frames, len(batches.frames)) // batches.batch_size)
        rows: list[dict[str, float]] = []
        for batch in prefetched(batches, 0, count, self.device):
            logits, targets = self.forward(batch)
            measured = action_metrics(logits, targets, len(batch["input_ids"]), self.checkpoint.codec)
            rows.append({"loss": F.cross_entropy(logits, targets).item(), **measured})
        return {f"validation/{name}": value for name, value in average(rows).items()}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and targets of the supervised positions."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.model.supervised_logits(batch["input_ids"], batch["pixel_values"], batch["labels"])

    def record(self, values: dict[str, float]) -> None:
        """Log `values` and remember them as the latest."""
        self.metrics.update(values)
        self.log.write(self.step, values)

    def save_final(self) -> Path:
        """Write output/final, adapters merged, unless an earlier process did."""
        target = self.config.output / "final"
        if not target.exists():
            merge(self.module)
            save_checkpoint(target, self.checkpoint)
        return target


class Window:
    """Metrics since the last log line: means of what steps report, and the pace."""

    def __init__(self, model: OpenVLA, matmul_flops_per_s: float) -> None:
        self._rows: list[dict[str, float]] = []
        self._examples, self._flops, self._wait_s, self._start = 0, 0.0, 0.0, time.perf_counter()
        self._model, self._rate = model, matmul_flops_per_s

    def timed(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """`batches`, with the time spent waiting for them."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._wait_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add(self, row: dict[str, float], shape: torch.Size) -> None:
        """Count one step over ids of `shape` (B, T)."""
        self._rows.append(row)
        self._examples += shape[0]
        self._flops += GRADIENT_PASSES * shape[0] * self._model.forward_flops(shape[1])

    def take(self) -> dict[str, float]:
        """The metrics of the window, which starts anew."""
        elapsed = time.perf_counter() - self._start
        values = {f"train/{name}": value for name, value in average(self._rows).items()} | {
            "perf/samples_per_s": self._examples / elapsed,
            "perf/mfu": self._flops / elapsed / self._rate,
            "perf/data_wait_fraction": self._wait_s / elapsed,
        }
        self.__init__(self._model, self._rate)
        return values


def check(config: TrainConfig) -> None:
    """Raise UsageError for settings that no run can have."""
    for name in ("steps", "batch_size", "save_every", "validate_every", "log_every", "keep", "validation_frames"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; give a whole number from 1")
    if not (config.learning_rate > 0 and config.gradient_clip > 0):
        raise UsageError(
            f"learning_rate is {config.learning_rate} and gradient_clip {config.gradient_clip}; both must be above 0"
        )
    if config.hold_out < 0 or config.hold_out == 1 or not 0 <= config.warmup_ratio <= 1:
        raise UsageError(
            f"hold_out is {config.hold_out} and warmup_ratio {config.warmup_ratio}; the first must be 0 or from 2, "
            "the second in 0..1"
        )


def starting_point(config: TrainConfig) -> Checkpoint:
    """The checkpoint a run starts from, loaded or new."""
    if config.checkpoint.startswith(PREFIX):
        return fresh_checkpoint(config.checkpoint.removeprefix(PREFIX), config.dataset, config.seed)
    return load_checkpoint(config.checkpoint)


def pick_precision(config: TrainConfig) -> torch.dtype:
    """bfloat16 or float32; "auto" takes bfloat16 where the hardware multiplies it natively."""
    table = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if config.precision != "auto":
        return lookup(config.precision, table, "precision")
    return torch.bfloat16 if multiplies_bf16(pick_device(config.device)) else torch.float32


def with_statistics(codec: Codec, config: TrainConfig) -> Codec:
    """The codec with statistics of the data set: its own where it has them, so that what it learned stays true."""
    if config.dataset in codec.statistics:
        return codec
    record = lookup(config.dataset, DATASETS, "data set")
    if codec.action_dim not in (None, record.action.dim):
        raise UsageError(
            f"{config.dataset!r} has {record.action.dim} action dimensions, the checkpoint {codec.action_dim}; "
            "use data of the same robot, or start from another checkpoint"
        )
    table = {**codec.statistics, config.dataset: dataset_statistics(config.data, config.dataset)}
    return dataclasses.replace(codec, statistics=table, action=record.action)


def load_frames(config: TrainConfig, codec: Codec) -> tuple[Frames, Batches | None]:
    """Frames to train on and batches to validate on, None where nothing is held out."""
    statistics = select(codec.statistics, config.dataset).action
    training, validation = (
        Frames(episodes, config.dataset, statistics, codec.chunk)
        for episodes in split_episodes(config.data, config.hold_out)
    )
    if not len(validation):
        return training, None
    return training, Batches(validation, codec, min(config.batch_size, len(validation)), config.seed)


def prefetched(batches: Batches, start: int, stop: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches `start` to `stop` as tensors on `device`; the next one is made while the current one is used."""

    def make(step: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in batches[step].items()}

    with ThreadPoolExecutor(1) as pool:
        pending: Any = pool.submit(make, start)
        for step in range(start, stop):
            ready = pending.result()
            if step + 1 < stop:
                pending = pool.submit(make, step + 1)
            yield {name: tensor.to(device) for name, tensor in ready.items()}
