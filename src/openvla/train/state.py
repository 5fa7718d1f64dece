"""All that must survive a crash: weights, optimiser, random state, position. A saved step is complete or absent.

checkpoints/step-000500/ progress.json    step, hash of the weights the run began with, metrics not logged yet
                         state/           what is trained and its optimiser, of all processes; any number can read it
                         adapter/         of LoRA and QLoRA: the adapter as peft has it
                         codec.json, ...  the codec

Weights that stay as they are lie in the checkpoint that the run began with, and are not saved again. The data's
position is the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from openvla.codec.codec import Codec
from openvla.errors import TrainingError, require
from openvla.files import read_json, write_text
from openvla.model.adapters import BASE_WEIGHTS
from openvla.train.config import TrainConfig
from openvla.train.methods import ADAPTERS
from openvla.train.parallel import whole_state
from openvla.train.saver import STATE, Saver, leftovers, reason, saved_steps
from openvla.train.world import World

PROGRESS = "progress.json"
MODEL, OPTIMIZER, RANDOM = "model.", "optimizer.", "random."
"""How the names of stored tensors begin."""

Unlogged = dict[str, Any]
"""What `Window.state` returns."""


@dataclass(frozen=True)
class Trained:
    """What a run changes.

    base: hash of the weights it began with, before anything was quantised or trained.
    parameters: what is trained, by name, as it was before the first forward pass, which swaps slices for wholes.
    """

    config: TrainConfig
    world: World
    base: str
    codec: Codec
    module: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    def save(self, saver: Saver, step: int, unlogged: Unlogged) -> None:
        """Begin to write the state after `step` steps.

        unlogged: metrics of the steps since the last log line, so that the next line is the same after a resume.
        """
        adapters = whole_state(self.parameters) if self.config.method in ADAPTERS else None
        progress = {"step": step, "base": self.base, "world": self.world.size, "unlogged": unlogged}

        def documents(place: Path) -> None:
            self.codec.save(place)
            if adapters is not None:
                save_adapter(self.module, adapters, self.config, self.base, place / "adapter")
            write_text(place / PROGRESS, json.dumps(progress) + "\n", TrainingError)

        saver.save(step, self._tensors(), documents)

    def restore(self) -> tuple[int, Unlogged]:
        """Load the newest saved state, if there is one; returns its step (or 0) and `unlogged`.

        Raises TrainingError for a state that is damaged, of another model, or trained from other weights.
        """
        self.world.on_first(lambda: [shutil.rmtree(path) for path in leftovers(self.config.output)])
        steps = self.world.on_first(lambda: saved_steps(self.config.output))
        if not steps:
            return 0, {}
        place = steps[-1][1]
        try:
            progress: Any = read_json(place / PROGRESS, TrainingError, "restore it")
            step, unlogged, base = int(progress["step"]), dict(progress["unlogged"]), progress["base"]
            if base == self.base:
                self._load(place / STATE)
        except (Exception, CheckpointException) as error:
            raise TrainingError(
                f"cannot resume from {place}: it is damaged, or of another model ({type(error).__name__}: "
                f"{reason(error)}); remove it to resume from the one before"
            ) from error
        if base != self.base:
            raise TrainingError(
                f"cannot resume from {place}: it was trained from weights with the hash {base[:12]}, and those of "
                f"{self.config.checkpoint} have {self.base[:12]}; give the checkpoint that the run began with"
            )
        return step, unlogged

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        optimizer = {
            f"{key}.{names[parameter]}": value
            for parameter, held in self.optimizer.state.items()
            for key, value in held.items()
        }
        return {
            "model": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": optimizer,
            "random": {str(self.world.rank): torch.get_rng_state()},
        }

    def _load(self, place: Path) -> None:
        reader, parameters = FileSystemReader(place), self.parameters
        stored: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
        wanted: dict[str, Tensor] = {MODEL + name: parameter.detach() for name, parameter in parameters.items()}
        odd = {name for name in stored if name.startswith(MODEL)} ^ set(wanted)
        if odd:
            raise TrainingError(f"{min(odd)!r} is in one of the two only")
        optimizer: dict[str, dict[str, Tensor]] = {}
        for key in stored:
            if key.startswith(OPTIMIZER):
                kind, _, name = key.removeprefix(OPTIMIZER).partition(".")
                like = parameters[name].detach()
                empty = torch.zeros((), device=self.world.device) if kind == "step" else torch.zeros_like(like)
                wanted[key] = optimizer.setdefault(name, {})[kind] = empty
        random = f"{RANDOM}{self.world.rank}"
        if random in stored:  # else there are more processes than before
            wanted[random] = torch.empty_like(torch.get_rng_state())
        load(wanted, storage_reader=reader)
        for name, held in optimizer.items():
            self.optimizer.state[parameters[name]] = held
        if random in stored:
            torch.set_rng_state(wanted[random])


def save_adapter(module: nn.Module, tensors: dict[str, Tensor], config: TrainConfig, base: str, place: Path) -> None:
    """Write a peft directory: adapter_config.json, adapter_model.safetensors, and the hash of the base beside them."""
    peft = require("peft", "train")
    from safetensors.torch import save_file

    described: Any = module.peft_config
    described = peft.LoraConfig(**{**described["default"].to_dict(), "inference_mode": True})
    described.base_model_name_or_path = config.checkpoint
    place.mkdir()
    described.save_pretrained(place)
    named = {name.replace(".default.weight", ".weight"): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, place / "adapter_model.safetensors", metadata={"format": "pt"})
    write_text(place / BASE_WEIGHTS, json.dumps({"sample": base}) + "\n", TrainingError)
