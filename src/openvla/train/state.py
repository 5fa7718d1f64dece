"""All that must survive a crash: weights, optimiser, position. A saved step is complete or absent.

checkpoints/step-000500/ training.pt            optimiser, step, random state
                         weights/ or adapter/   a checkpoint directory, or a peft adapter
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from openvla.errors import TrainingError, require
from openvla.files import new_directory, read_json, write_text
from openvla.model.checkpoint import Checkpoint, save_checkpoint
from openvla.model.weights import read_weights
from openvla.train.config import TrainConfig

RUN = "run.json"
FREE_TO_CHANGE = ("output", "device", "resume", "log_every", "keep")


def check_output(config: TrainConfig) -> None:
    """See that `output` is free, or that the run to resume there is this one.

    Raises TrainingError for a directory in use, and for a resumed run whose configuration differs, showing how.
    """
    if not config.resume:
        if config.output.exists() and not (config.output.is_dir() and not any(config.output.iterdir())):
            raise TrainingError(
                f"{config.output} is not empty; resume that run with --resume, or choose another output"
            )
        return
    if not (config.output / RUN).is_file():
        raise TrainingError(f"cannot resume {config.output}: there is no {RUN} in it; start the run without --resume")
    theirs: Any = read_json(config.output / RUN, TrainingError, "restore it, or start a new run")
    changed = [
        f"{name} was {theirs.get(name)!r} and is {value!r}"
        for name, value in _plain(config).items()
        if name not in FREE_TO_CHANGE and theirs.get(name) != value
    ]
    if changed:
        raise TrainingError(f"cannot resume {config.output}: {'; '.join(changed)}; give the same values as before")


def begin(config: TrainConfig) -> None:
    """Make the output directory and write run.json. Raises TrainingError where that cannot be done."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot create {config.output}: {error.strerror or error}; choose another output"
        ) from error
    write_text(config.output / RUN, json.dumps(_plain(config), indent=2) + "\n", TrainingError)


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def saved_steps(output: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every complete checkpoint, oldest first."""
    found = [(int(path.name.removeprefix("step-")), path) for path in (output / "checkpoints").glob("step-*")]
    return sorted(found)


def save(
    config: TrainConfig,
    step: int,
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    unlogged: list[dict[str, float]],
) -> None:
    """Write the state after `step` steps and remove the oldest beyond `config.keep`.

    unlogged: metrics of the steps since the last log line, so that the next line is the same after a resume.
    """
    target = config.output / "checkpoints" / f"step-{step:06d}"
    if target.exists():
        return
    with new_directory(target, TrainingError) as place:
        if config.method == "lora":
            _save_adapter(module, place / "adapter")
        else:
            save_checkpoint(place / "weights", checkpoint)
        state = {
            "step": step,
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "unlogged": unlogged,
        }
        torch.save(state, place / "training.pt")
    for _, old in saved_steps(config.output)[: -config.keep]:
        shutil.rmtree(old)


def restore(
    config: TrainConfig, checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Load the newest saved state, if there is one, into the run's parts; returns its step (or 0) and `unlogged`."""
    for leftover in (*config.output.glob(".final.*.tmp"), *config.output.glob("checkpoints/.step-*.tmp")):
        shutil.rmtree(leftover)
    steps = saved_steps(config.output)
    if not steps:
        return 0, []
    _, place = steps[-1]
    try:
        state: dict[str, Any] = torch.load(place / "training.pt", weights_only=True)
        if config.method == "lora":
            weights = load_file(place / "adapter" / "adapter_model.safetensors")
            require("peft", "train").set_peft_model_state_dict(module, weights)
        else:
            model = checkpoint.model
            model.load_state_dict(read_weights(place / "weights", model.state_dict()))
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"]), state["unlogged"]
    except Exception as error:
        raise TrainingError(
            f"cannot resume from {place}: it is damaged, or of another model ({type(error).__name__}); remove it to "
            "resume from the one before"
        ) from error


def _save_adapter(module: Any, place: Path) -> None:
    module.save_pretrained(place, save_embedding_layers=False)
    (place / "README.md").unlink(missing_ok=True)
