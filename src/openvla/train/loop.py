"""The training loop: one process, CPU or one GPU, exact resume.

The loss is the mean cross-entropy over the action tokens and the stop token (Kim et al. 2024, section 3.2). Weights and
optimiser are float32; with bf16 the forward pass runs under autocast. What batch a step sees depends on the step alone,
so a resumed run repeats an uninterrupted one, on a CPU bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from openvla.data.frames import Batches
from openvla.errors import TrainingError
from openvla.model.checkpoint import Checkpoint, save_checkpoint
from openvla.model.prismatic import OpenVLA
from openvla.nn.hardware import pick_device
from openvla.train import state
from openvla.train.config import TrainConfig
from openvla.train.methods import count_parameters, merge, prepare
from openvla.train.metrics import MetricLog, Window, action_metrics, average, matmul_rate
from openvla.train.optim import learning_rate, make_optimizer
from openvla.train.setup import check, load_batches, pick_precision, starting_point, with_statistics


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
    state.check_output(config)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    start = starting_point(config)
    checkpoint = dataclasses.replace(start, codec=with_statistics(start.codec, config))
    module = prepare(checkpoint.model, config.method, config.rank, config.seed).to(device)
    training, validation = load_batches(config, checkpoint.codec)
    state.begin(config)
    return Run(config, checkpoint, module, device, precision).run(training, validation)


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
        self.step, unlogged = state.restore(config, checkpoint, module, self.optimizer) if config.resume else (0, [])
        self.log = MetricLog(config.output, self.step)
        self.metrics: dict[str, float] = {}
        self.window = Window(self.model, matmul_rate(device, precision), unlogged)

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
                    state.save(config, self.step, self.checkpoint, self.module, self.optimizer, self.window.rows)
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


def prefetched(batches: Batches, start: int, stop: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches `start` to `stop` as tensors on `device`; the next one is made while the current one is used."""

    def make(step: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in batches[step].items()}

    if start >= stop:
        return
    with ThreadPoolExecutor(1) as pool:
        pending: Any = pool.submit(make, start)
        for step in range(start, stop):
            ready = pending.result()
            if step + 1 < stop:
                pending = pool.submit(make, step + 1)
            yield {name: tensor.to(device) for name, tensor in ready.items()}
