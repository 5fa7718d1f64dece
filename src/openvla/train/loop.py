"""The training loop, on a CPU, on one GPU, or on many under torchrun; with exact resume.

The loss is the mean cross-entropy over the action tokens and the stop token (Kim et al. 2024, section 3.2) of the whole
batch, however it is shared out to processes and to micro-batches. Weights and optimiser are float32; with bf16 the
forward pass runs under autocast. What batch a step sees depends on the step alone, so a resumed run repeats an
uninterrupted one, on a CPU bit for bit.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openvla.codec.batch import IGNORE_INDEX
from openvla.data.loading.batches import Batches
from openvla.data.loading.loader import load
from openvla.errors import StoppedError, TrainingError
from openvla.model.checkpoint import Checkpoint
from openvla.model.fingerprint import sample_hash
from openvla.train.agreement import check_agreement
from openvla.train.census import census
from openvla.train.config import TrainConfig
from openvla.train.conversations import check_conversations, held_out_conversations
from openvla.train.data import held_out_batches, load_batches, with_crop, with_statistics
from openvla.train.export import export
from openvla.train.live import Live
from openvla.train.methods import ADAPTERS, count_parameters, prepare
from openvla.train.metrics import Window, matmul_rate
from openvla.train.optim import learning_rate, make_optimizer
from openvla.train.parallel import average_gradients, check_shares, compile_layers, recompute, release, spread, whole
from openvla.train.pixels import normalized
from openvla.train.plan import training_flops
from openvla.train.readback import Readback
from openvla.train.run_file import begin, check_output, plain
from openvla.train.saver import Saver, step_directory
from openvla.train.scores import COUNT, LOSS, Origin, Scorer, origins
from openvla.train.setup import check, pick_precision, starting_point
from openvla.train.signals import Termination, termination
from openvla.train.sinks import MetricLog, check_sinks
from openvla.train.state import Trained
from openvla.train.world import World, connect

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """final: checkpoint directory of the trained model. metrics: the last values of everything logged."""

    final: Path
    metrics: dict[str, float]


def train(config: TrainConfig, *, quiet: bool = False) -> TrainResult:
    """Run or resume `config` to its last step and save the model in `output`/final; unless `quiet`, show how it goes.

    Raises UsageError for bad settings, CheckpointError and DataError for bad input, StoppedError after SIGTERM, with
    the state saved, TrainingError for the rest.
    """
    check(config)
    check_conversations(config)
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
        talk = held_out_conversations(training)
        heard = None if talk is None else held_out_batches([talk], [1.0], config, codec, world.rank, world.size)
        if config.doctor:
            world.on_first(lambda: check_agreement(training, codec, config.augment))
        world.on_first(lambda: begin(config))
        run = Run(config, world, checkpoint, base, module, precision, origins(training), asked)
        live = Live(config.steps, run.step, quiet or not world.first)
        return run.run(training, [each for each in (validation, heard) if each is not None], live)


def arrange(checkpoint: Checkpoint, config: TrainConfig, world: World, precision: torch.dtype) -> nn.Module:
    """The module to train, on this process's device or spread over those of all."""
    model, sliced = checkpoint.model, config.method != "qlora" and world.size > 1  # four-bit weights cannot be sliced
    widened, double = not sliced or config.method in ADAPTERS, config.double_quantization
    module = prepare(model, config.method, config.rank, config.seed, precision, double, widened)
    if config.compile:
        compile_layers(model)
    if config.checkpoint_activations:
        recompute(model)
    if sliced:
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
        sources: Sequence[Origin],
        asked: Termination,
    ) -> None:
        self.config, self.world, self.asked = config, world, asked
        self.codec, self.model, self.module, self.precision = checkpoint.codec, checkpoint.model, module, precision
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.trainable = list(named.values())
        self.optimizer = make_optimizer(self.trainable, config)
        self.state = Trained(config, world, base, self.codec, module, named, self.optimizer)
        self.step, unlogged = self.state.restore() if config.resume else (0, {})
        self.saver = Saver(world, config.output, config.keep)
        self.log: MetricLog | None = None
        world.on_first(self.open_log)
        self.metrics: dict[str, float] = {}
        self.reports = Readback(world.device)
        self.requested = self.failed = False  # in any process, as far as reports tell
        self.scorer = Scorer(sources, self.codec, world.device)
        counted = census(self.model.config, config.method, config.rank)
        flops = partial(training_flops, self.model.config, counted)
        self.window = Window(self.scorer, world, flops, matmul_rate(world.device, precision))
        self.window.restore(unlogged)

    def open_log(self) -> None:
        """Begin or go on with the metrics; for the first process. Raises TrainingError where a sink cannot start."""
        config = self.config
        self.log = MetricLog(check_sinks(config.sinks), config.output, self.step, plain(config))

    def run(self, batches: Batches, validation: Sequence[Batches], live: Live) -> TrainResult:
        """Train to the last step, logging, validating and saving on the way."""
        config = self.config
        total, trainable = count_parameters(self.module)
        self.metrics |= {"parameters/total": total, "parameters/trainable": trainable}
        if self.step == 0:  # a resumed run has that line
            self.record(self.metrics)
        loaded = self.window.timed(prefetched(batches, self.step, config.steps, config.workers))
        try:
            for batch in loaded:
                self.train_step(batch)
                self.window.count(batch["input_ids"].shape)
                self.step += 1
                self.after_step(validation)
                live.show(self.step, self.metrics)
            self.saver.wait()
        finally:
            live.close()
            self.saver.close()
            if self.log is not None:
                self.log.close()
        if batches.bad.skipped:
            log.warning("%s", batches.bad.summary())
        return TrainResult(self.world.on_first(self.save_final), self.metrics)

    def after_step(self, validation: Sequence[Batches]) -> None:
        """Log, validate and save where the step number asks for it. Raises StoppedError where the run was asked to."""
        config, last = self.config, self.step == self.config.steps
        logs, validates, saves = (
            last or self.step % every == 0 for every in (config.log_every, config.validate_every, config.save_every)
        )
        stopping = self.requested
        if logs or validates or saves or stopping or self.failed:
            self.absorb(self.reports.rest())
        if logs:
            self.record({**self.window.take(), "train/learning_rate": self.optimizer.param_groups[0]["lr"]})
        if validates:
            self.record(self.validate(validation))
        if self.failed:
            self.saver.wait()
        if saves or stopping:
            self.state.save(self.saver, self.step, self.window.state())
        if stopping and not last:
            self.saver.wait()
            raise StoppedError(
                f"stopped after step {self.step} of {config.steps} as asked (SIGTERM), with the state saved in "
                f"{step_directory(config.output, self.step)}; continue with --resume"
            )

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """One optimiser step; nothing is changed where loss or gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        supervised = (batch["labels"][:, 1:] != IGNORE_INDEX).sum().float()
        # gradients are averaged over processes
        share = self.world.sum(moved(supervised, self.world.device)) / self.world.size
        parts = zip(*(tensor.chunk(self.config.accumulate) for tensor in batch.values()), strict=True)
        sums = torch.stack([self.accumulate(dict(zip(batch, part, strict=True)), share) for part in parts]).sum(0)
        average_gradients(self.trainable, self.world)
        norm = whole(nn.utils.clip_grad_norm_(self.trainable, self.config.gradient_clip)).reshape(1)
        signs = moved(torch.tensor([self.asked.requested, self.saver.failed], dtype=torch.float32), norm.device)
        mine = torch.cat([norm / self.world.size, signs, sums.flatten()])
        self.absorb(self.reports.put(self.step, self.world.sum(mine)))
        if self.reports.late:
            self.optimizer.found_inf = self.reports.stopped  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def absorb(self, reports: list[tuple[int, Tensor]]) -> None:
        """Count what steps of all processes measured. Raises TrainingError for the first that could not be taken."""
        for step, numbers in reports:
            norm, requested, failed, *_ = numbers[:3].tolist()
            sums = numbers[3:].reshape(self.scorer.shape).double().numpy()
            self.requested, self.failed = self.requested or requested > 0, self.failed or failed > 0
            if not numbers.isfinite().all():
                raise self.not_finite(step, norm, sums)
            self.window.add(norm, sums)

    def not_finite(self, step: int, norm: float, sums: NDArray[np.float64]) -> TrainingError:
        """The sentence for a step whose loss or gradient is NaN or infinite: which, and on what."""
        with np.errstate(invalid="ignore"):
            loss = sums[:, LOSS].sum() / sums[:, COUNT].sum()
        held = ", ".join(f"{name!r} (loss {value:g})" for name, value in self.scorer.present(sums).items())
        return TrainingError(
            f"step {step}: the loss is {loss:g} and its gradient norm {norm:g}; no weight was changed; lower the "
            f"learning rate ({self.config.learning_rate:g}) or check the data of this batch: {held}"
        )

    def accumulate(self, batch: dict[str, Tensor], share: Tensor) -> Tensor:
        """Add the gradients of a micro-batch, and return its sums, see `Scorer`.

        share: supervised positions of the whole batch per process.
        """
        logits, targets, cells = self.forward(batch, self.scorer)
        losses = F.cross_entropy(logits, targets, reduction="none")
        (losses.sum() / share).backward()
        return self.scorer.sums(logits.detach(), targets, losses.detach(), cells)

    @torch.no_grad()
    def validate(self, validation: Sequence[Batches]) -> dict[str, float]:
        """Loss and metrics over the first `validation_frames` examples of each; names that two have are the first's."""
        found: dict[str, float] = {}
        for batches in validation:
            count = max(1, min(self.config.validation_frames, len(batches)) // batches.batch_size)
            scorer = Scorer(origins(batches), self.codec, self.world.device)
            sums = torch.zeros(scorer.shape, device=self.world.device)
            for batch in prefetched(batches, 0, count):
                logits, targets, cells = self.forward(batch, scorer)
                sums += scorer.sums(logits, targets, F.cross_entropy(logits, targets, reduction="none"), cells)
            release(self.model)
            found = scorer.metrics(self.world.sum(sums).cpu().double().numpy()) | found
        return {f"validation/{name}": value for name, value in found.items()}

    def forward(self, batch: dict[str, Tensor], scorer: Scorer) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and targets of the supervised positions, and the cells that `scorer` counts them in."""
        device, has_image = self.world.device, batch.get("has_image")
        positions, targets = self.model.supervised_positions(batch["labels"], has_image)
        cells = scorer.cells(batch["labels"], batch["source"])
        here = (batch["input_ids"], batch["pixel_values"], positions, targets, cells)
        ids, pixels, positions, targets, cells = (moved(tensor, device) for tensor in here)
        with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
            return (
                self.model.logits_at(ids, normalized(pixels, self.codec.images), positions, has_image),
                targets,
                cells,
            )

    def record(self, values: dict[str, float]) -> None:
        """Log `values` and remember them as the latest."""
        self.metrics.update(values)
        self.world.on_first(lambda: None if self.log is None else self.log.write(self.step, values))

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


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; for a GPU through pinned memory, so that nobody waits for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
