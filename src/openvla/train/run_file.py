"""run.json: the configuration of a run, written beside its results, and what a resumed run may change of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, cast

from openvla.errors import TrainingError
from openvla.files import read_json, write_text
from openvla.train.config import TrainConfig

log = logging.getLogger(__name__)

RUN = "run.json"
FREE_TO_CHANGE = (
    "output",
    "device",
    "workers",
    "resume",
    "force",
    "log_every",
    "sinks",
    "doctor",
    "keep",
    "accumulate",
    "shard",
    "checkpoint_activations",
    "compile",
    "preflight_timeout_s",
)
"""They change neither what is computed, apart from rounding, nor what is saved."""

FIXED = ("method", "rank", "double_quantization", "checkpoint", "language_model", "vision_weights")
"""They say what the saved tensors are."""


def check_output(config: TrainConfig) -> None:
    """See that `output` is free, or that the run to resume there is this one.

    Raises TrainingError for a directory in use, and for a resumed run whose configuration differs, showing how, unless
    it is forced and its tensors stay the same.
    """
    if not config.resume:
        if config.output.exists() and not config.output.is_dir():
            raise TrainingError(f"{config.output} is a file; choose a directory as the output")
        if config.output.is_dir() and any(config.output.iterdir()):
            raise TrainingError(
                f"{config.output} is not empty; resume that run with --resume, or choose another output"
            )
        return
    if not (config.output / RUN).is_file():
        raise TrainingError(f"cannot resume {config.output}: there is no {RUN} in it; start the run without --resume")
    newer = plain(TrainConfig(Path(), Path(), ""))  # a setting that came after the run had its default
    theirs = newer | _read(config.output)
    changed = {
        name: f"{name} was {theirs.get(name)!r} and is {value!r}"
        for name, value in plain(config).items()
        if name not in FREE_TO_CHANGE and theirs.get(name) != value
    }
    if not changed:
        return
    difference = "; ".join(changed.values())
    if set(changed) & set(FIXED):
        raise TrainingError(f"cannot resume {config.output}: {difference}; give the same values as before")
    if not config.force:
        raise TrainingError(
            f"cannot resume {config.output}: {difference}; give the same values as before, or --force to go on with "
            "the new ones"
        )
    log.warning("resuming %s with changed settings: %s", config.output, difference)


def begin(config: TrainConfig) -> None:
    """Make the output directory and write run.json. Raises TrainingError where that cannot be done."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"cannot create {config.output}: {error.strerror or error}; choose another output"
        ) from error
    write_text(config.output / RUN, json.dumps(plain(config), indent=2) + "\n", TrainingError)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def read_run(output: Path) -> TrainConfig:
    """The configuration of the run in `output`. Raises TrainingError where there is none, or it is damaged."""
    fields = _read(output)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name in known}
    for name in ("data", "output", "image_text", "image_text_images"):
        if kept.get(name) is not None or name in ("data", "output"):
            kept[name] = Path(str(fields.get(name)))
    kept["vision_weights"] = tuple(map(Path, kept.get("vision_weights", ())))
    try:
        return TrainConfig(**kept)
    except TypeError as error:
        raise TrainingError(f"{output / RUN} lacks a setting ({error}); restore it, or start a new run") from error


def _read(output: Path) -> dict[str, Any]:
    fields: Any = read_json(output / RUN, TrainingError, "restore it, or start a new run")
    if not isinstance(fields, dict):
        raise TrainingError(f"{output / RUN} holds no settings by name; restore it, or start a new run")
    return cast("dict[str, Any]", fields)
