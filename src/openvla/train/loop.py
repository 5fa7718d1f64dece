"""The training loop, on a CPU, on one GPU, or on many under torchrun; with exact resume.

The loss is the mean cross-entropy over the action tokens and the stop token (Kim et al. 2024, section 3.2) of the whole
batch, however it is shared out to processes and to micro-batches. Weights and optimiser are float32; with bf16 the
forward pass runs under autocast. What batch a step sees depends on the step alone, so a resumed run repeats an
uninterrupted one, on a CPU bit for bit.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from openvla.codec.batch import IGNORE_INDEX
from openvla.data.loading.batches import Batches
from openvla.data.loading.loader import load
from openvla.errors import StoppedError, TrainingError
from openvla.model.checkpoint import Checkpoint
from openvla.model.fingerprint import sample_hash
from openvla.train.census import census
from openvla.train.config import TrainConfig
from openvla.train.data import load_batches, with_crop, with_statistics
from openvla.train.export import export
from openvla.train.methods import count_parameters, prepare
from openvla.train.metrics import MetricLog, Window, action_metrics, average, matmul_rate
from openvla.train.optim import learning_rate, make_optimizer
from openvla.train.parallel import average_gradients, check_shares, compile_layers, recompute, release, spread, whole
from openvla.train.pixels import normalized
from openvla.train.plan import training_flops
from openvla.train.run_file import begin, check_output, plain
from openvla.train.saver import Saver, step_directory
from openvla.train.setup import check, pick_precision, starting_point
from openvla.train.signals import Termination, termination
from openvla.train.state import Trained
from openvla.train.world import World, connect

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """final: checkpoint directory of the trained model. metrics: the last values of everything logged."""

    final: Path
    metrics: dict[str, float]


def train(config: TrainConfig) -> TrainResult:
    """Run or resume `config` to its last step and save the model in `output`/final.

    Raises UsageError for bad settings, CheckpointError and DataError for bad input, StoppedError after SIGTERM, with
    the state saved, TrainingError for the rest.
    """
    check(config)
    with connect(config.device, plain(config), config.preflight_timeout_s) as world, termination() as asked:
        check_shares(world, config.batch_size, config.accumulate, config.shard)
        world.on_first(lambda: check_output(config))
        precision = pick_precision(config.precision, world.device)
        start = world.first_then_others(lambda: starting_point(config))
        base = sample_hash(start.model.state_dict())
        codec = world.first_then_others(lambda: with_crop(with_statistics(start.codec, config), config))
        checkpoint = dataclasses.replace(start, codec=codec)
        module = arrange(checkpoint, config, world, precision)
        training, validation = world.first_then_others(lambda: load_batches(config, codec, world.rank, world.size))
        world.on_first(lambda: begin(config))
        return Run(config, world, checkpoint, base, module, precision, asked).run(training, validation)


def arrange(checkpoint: Checkpoint, config: TrainConfig, world: World, precision: torch.dtype) -> nn.Module:
    """The module to train, on this process's device or spread over those of all."""
    model = checkpoint.model
    module = prepare(model, config.method, config.rank, config.seed, precision, config.double_quantization)
    if config.compile:
        compile_layers(model)
    if config.checkpoint_activations:
        recompute(model)
    if config.method != "qlora":  # four-bit weights cannot be sliced
        spread(model, world, precision, config.shard)
    return module.to(world.device)


class Run:
    """The moving parts of one run."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        checkpoint: Checkpoint,
        base: str,
        module: nn.Module,
        precision: torch.dtype,
        asked: Termination,
    ) -> None:
        self.config, self.world, self.asked = config, world, asked
        self.codec, self.model, self.module, self.precision = checkpoint.codec, checkpoint.model, module, precision
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.trainable = list(named.values())
        self.optimizer = make_optimizer(self.trainable, config)
        self.state = Trained(config, world, base, self.codec, module, named, self.optimizer)
        self.step, unlogged = self.state.restore() if config.resume else (0, [])
        self.saver = Saver(world, config.output, config.keep)
        self.log = MetricLog(config.output, self.step) if world.first else None
        self.metrics: dict[str, float] = {}
        counted = census(self.model.config, config.method, config.rank)
        self.window = Window(
            lambda tokens: training_flops(self.model.config, counted, config.method, tokens),
            matmul_rate(world.device, precision),
            world.size,
            unlogged,
        )

    def run(self, batches: Batches, validation: Batches | None) -> TrainResult:
        """Train to the last step, logging, validating and saving on the way."""
        config = self.config
        total, trainable = count_parameters(self.module)
        self.record({"parameters/total": total, "parameters/trainable": trainable})
        loaded = self.window.timed(prefetched(batches, self.step, config.steps, config.workers))
        try:
            with tqdm(total=config.steps, initial=self.step, desc="train", unit="step", disable=self.quiet) as bar:
                for batch in loaded:
                    self.window.add(self.train_step(batch), batch["input_ids"].shape)
                    self.step += 1
                    self.after_step(validation)
                    bar.update()
                    bar.set_postfix(loss=f"{self.metrics.get('train/loss', float('nan')):.3f}", refresh=False)
            self.saver.wait()
        finally:
            self.saver.close()
            if self.log is not None:
                self.log.close()
        if batches.bad.skipped:
            log.warning("%s", batches.bad.summary())
        return TrainResult(self.world.on_first(self.save_final), self.metrics)

    @property
    def quiet(self) -> bool:
        """Whether this process shows no progress."""
        return not self.world.first

    def after_step(self, validation: Batches | None) -> None:
        """Log, validate and save where the step number asks for it. Raises StoppedError where the run was asked to."""
        config, last = self.config, self.step == self.config.steps
        if self.step % config.log_every == 0 or last:
            self.record({**self.window.take(), "train/learning_rate": self.optimizer.param_groups[0]["lr"]})
        if validation is not None and (self.step % config.validate_every == 0 or last):
            self.record(self.validate(validation))
        signals = self.world.gather((self.asked.requested, self.saver.failed))
        stopping = any(requested for requested, _ in signals)
        if any(failed for _, failed in signals):
            self.saver.wait()
        if self.step % config.save_every == 0 or last or stopping:
            self.state.save(self.saver, self.step, self.window.rows)
        if stopping and not last:
            self.saver.wait()
            raise StoppedError(
                f"stopped after step {self.step} of {config.steps} as asked (SIGTERM), with the state saved in "
                f"{step_directory(config.output, self.step)}; continue with --resume"
            )

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimiser step; nothing is changed where loss or gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        supervised = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
        share = sum(self.world.gather(supervised)) / self.world.size  # gradients are averaged over processes
        parts = zip(*(tensor.chunk(self.config.accumulate) for tensor in batch.values()), strict=True)
        rows = [self.accumulate(dict(zip(batch, part, strict=True)), share) for part in parts]
        average_gradients(self.trainable, self.world)
        norm = whole(nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip))
        mine = average(rows) | {"loss": sum(row["loss"] for row in rows), "gradient_norm": norm.item()}
        measured = average(self.world.gather(mine))
        if not all(map(math.isfinite, (measured["loss"], measured["gradient_norm"]))):
            raise TrainingError(
                f"step {self.step}: the loss is {measured['loss']:g} and its gradient norm "
                f"{measured['gradient_norm']:g}; no weight was changed; lower the learning rate "
                f"({self.config.learning_rate:g}) or check {self.config.mixture or self.config.dataset!r}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return measured

    def accumulate(self, batch: dict[str, Tensor], share: float) -> dict[str, float]:
        """Add the gradients of a micro-batch, and return its part of the loss and what it measures.

        share: supervised positions of the whole batch per process.
        """
        logits, targets = self.forward(batch)
        loss = F.cross_entropy(logits, targets, reduction="sum") / share
        loss.backward()
        return {"loss": loss.item(), **action_metrics(logits.detach(), targets, len(batch["input_ids"]), self.codec)}

    @torch.no_grad()
    def validate(self, batches: Batches) -> dict[str, float]:
        """Loss and action metrics over the first `validation_frames` frames of the validation split."""
        count = max(1, min(self.config.validation_frames, len(batches)) // batches.batch_size)
        rows: list[dict[str, float]] = []
        for batch in prefetched(batches, 0, count):
            logits, targets = self.forward(batch)
            measured = action_metrics(logits, targets, len(batch["input_ids"]), self.codec)
            rows.append({"loss": F.cross_entropy(logits, targets).item(), **measured})
        release(self.model)
        found = average(self.world.gather(average(rows)))
        return {f"validation/{name}": value for name, value in found.items()}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and targets of the supervised positions."""
        here = {name: tensor.to(self.world.device) for name, tensor in batch.items()}
        pixels = normalized(here["pixel_values"], self.codec.images)
        with torch.autocast(self.world.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.model.supervised_logits(here["input_ids"], pixels, here["labels"])

    def record(self, values: dict[str, float]) -> None:
        """Log `values` and remember them as the latest."""
        self.metrics.update(values)
        if self.log is not None:
            self.log.write(self.step, values)

    def save_final(self) -> Path:
        """Write output/final from the last saved step, unless an earlier process did."""
        target = self.config.output / "final"
        if not target.exists():
            export(step_directory(self.config.output, self.config.steps), target)
        return target


def prefetched(batches: Batches, start: int, stop: int, workers: int = 1) -> Iterator[dict[str, Tensor]]:
    """Batches `start` to `stop` as tensors on the CPU, made by `workers` threads while the ones before are used."""
    for batch in load(batches, range(start, stop), workers=workers):
        yield {name: torch.from_numpy(array) for name, array in batch.items()}
