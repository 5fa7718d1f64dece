"""A saved step of a run as an ordinary checkpoint: one safetensors file, adapters merged.

What the run did not train comes from the checkpoint it began with, and so does the type of the weights. Adapters are
merged in float32, guarded against other bases and a second merge; then the logits are compared with those of base and
adapter. Only the CPU is used, and one process, whatever trained it.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from openvla.codec.codec import Codec
from openvla.errors import TrainingError
from openvla.files import read_json
from openvla.model.adapters import merge_adapter, read_adapter
from openvla.model.checkpoint import Checkpoint, save_checkpoint
from openvla.model.fingerprint import sample_hash
from openvla.model.lazy import MadeTensor
from openvla.model.merge_check import check_merge
from openvla.model.prismatic import OpenVLA
from openvla.model.source import HF, Source
from openvla.nn.meta import on_meta
from openvla.train.methods import ADAPTERS
from openvla.train.run_file import read_run
from openvla.train.saver import STATE, reason
from openvla.train.setup import starting_point
from openvla.train.state import MODEL, PROGRESS


def is_step(directory: Path) -> bool:
    """Whether `directory` is a saved step of a training run."""
    return (directory / PROGRESS).is_file()


def export(step: Path, target: Path) -> None:
    """Write the saved step `step` (OUTPUT/checkpoints/step-N) to the new checkpoint directory `target`.

    Raises TrainingError for a step that is damaged or whose base changed, CheckpointError for the rest.
    """
    config = read_run(step.parent.parent)
    start = starting_point(config)
    progress: Any = read_json(step / PROGRESS, TrainingError, "export another step")
    found = sample_hash(start.model.state_dict())
    if progress["base"] != found:
        raise TrainingError(
            f"{step} was trained from weights with the hash {str(progress['base'])[:12]}, and those of "
            f"{config.checkpoint} have {found[:12]}; restore the checkpoint that the run began with"
        )
    done = dataclasses.replace(start, codec=Codec.load(step))
    merged = _merge(done, step) if config.method in ADAPTERS else _overlay(done, step)
    save_checkpoint(target, merged)


def _merge(start: Checkpoint, step: Path) -> Checkpoint:
    adapter = read_adapter(step / "adapter")
    tensors: Any = {
        name: MadeTensor(tensor.dtype, tuple(tensor.shape), tensor.detach)
        for name, tensor in start.model.state_dict().items()
    }
    merged = merge_adapter(Source(HF, step, start.config, start.model.config, tensors), adapter)
    with on_meta():
        model = OpenVLA(start.model.config)
    model.load_state_dict({name: tensor.mapped() for name, tensor in merged.tensors.items()}, assign=True)
    check_merge(start.model, adapter, model)
    return dataclasses.replace(start, model=model.eval(), config=merged.config)


def _overlay(start: Checkpoint, step: Path) -> Checkpoint:
    weights = start.model.state_dict()
    try:
        trained = _read_model(step / STATE)
        fitting = {name: tensor.to(weights[name].dtype) for name, tensor in trained.items()}
        start.model.load_state_dict(weights | fitting, assign=True)
    except (Exception, CheckpointException) as error:
        raise TrainingError(
            f"cannot read {step / STATE}: it is damaged, or of another model ({type(error).__name__}: "
            f"{reason(error)}); export another step"
        ) from error
    return start


def _read_model(place: Path) -> dict[str, Tensor]:
    """The trained tensors, whole, by published name."""
    reader = FileSystemReader(place)
    stored: Any = reader.read_metadata().state_dict_metadata
    wanted = {
        key: torch.empty(held.size, dtype=held.properties.dtype)
        for key, held in stored.items()
        if key.startswith(MODEL)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is ")  # that this process is alone is meant
        load(wanted, storage_reader=reader, no_dist=True)
    return {key.removeprefix(MODEL): tensor for key, tensor in wanted.items()}
