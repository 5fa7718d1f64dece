"""codec.json: its schema, and reading and writing it.

    {"prompt": "In: ... {instruction} ...", "actions": {"vocab_size", "num_bins"},
     "images": {"strategy", "sizes", "means", "stds", "fill", "fill_per_encoder", "short_side", "full_square"},
     "action": null or {"names", "units", "low", "high", "control_hz", "gripper"}, "chunk", "cameras",
     "image_pipeline", "training_crop", "suffix_token_id", "bos_token_id", "eos_token_id", "pad_token_id"}

JSON has no infinity: an unknown bound of an action is null. `LATER` names what earlier versions did not write.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.codec.actions import ActionTokenizer
from openvla.codec.fields import BOOLEAN, INTEGER, NUMBER, OBJECT, RESTORE, TEXT, exact_fields, list_of, nullable
from openvla.codec.images import ImageTransform
from openvla.codec.prompt import Prompt
from openvla.errors import CheckpointError, InputError, UsageError
from openvla.files import read_json, write_text
from openvla.spec import ActionSpec

_CODEC = {
    "prompt": TEXT,
    "actions": OBJECT,
    "images": OBJECT,
    "action": nullable(OBJECT),
    "chunk": INTEGER,
    "cameras": list_of(TEXT),
    "image_pipeline": TEXT,
    "training_crop": nullable(NUMBER),
    "suffix_token_id": nullable(INTEGER),
    "bos_token_id": INTEGER,
    "eos_token_id": INTEGER,
    "pad_token_id": INTEGER,
}
_ACTIONS = {"vocab_size": INTEGER, "num_bins": INTEGER}
_IMAGES = {
    "strategy": TEXT,
    "sizes": list_of(INTEGER),
    "means": list_of(list_of(NUMBER, 3)),
    "stds": list_of(list_of(NUMBER, 3)),
    "fill": nullable(list_of(INTEGER, 3)),
    "fill_per_encoder": BOOLEAN,
    "short_side": nullable(INTEGER),
    "full_square": BOOLEAN,
}
_ACTION = {
    "names": list_of(TEXT),
    "units": list_of(TEXT),
    "low": list_of(nullable(NUMBER)),
    "high": list_of(nullable(NUMBER)),
    "control_hz": NUMBER,
    "gripper": TEXT,
}

LATER: dict[str, Any] = {"image_pipeline": "processor"}
LATER_IMAGES: dict[str, Any] = {"fill_per_encoder": False, "short_side": None, "full_square": False}
"""What a codec.json that lacks a field means by that."""


def read_codec(path: Path) -> dict[str, Any]:
    """The fields of a `Codec` that codec.json holds. Raises CheckpointError naming file and field."""
    fields = exact_fields(read_json(path, CheckpointError, RESTORE), _CODEC, str(path), LATER)
    actions = exact_fields(fields["actions"], _ACTIONS, f"{path}, actions")
    images = exact_fields(fields["images"], _IMAGES, f"{path}, images", LATER_IMAGES)
    with invalid_values_of(path):
        fields["prompt"] = Prompt(fields["prompt"])
        fields["actions"] = ActionTokenizer(**actions)
        fields["images"] = ImageTransform(**{name: _tuples(value) for name, value in images.items()})
        if fields["action"] is not None:
            fields["action"] = _read_spec(exact_fields(fields["action"], _ACTION, f"{path}, action"))
    fields["cameras"] = tuple(fields["cameras"])
    return fields


def write_codec(path: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a `Codec` as codec.json, whole or not at all. Raises CheckpointError."""
    spec: ActionSpec | None = fields["action"]
    table = dict(fields) | {
        "prompt": fields["prompt"].template,
        "actions": dataclasses.asdict(fields["actions"]),
        "images": dataclasses.asdict(fields["images"]),
        "action": None if spec is None else _write_spec(spec),
    }
    write_text(path, json.dumps(table, indent=2, allow_nan=False) + "\n", CheckpointError)


@contextmanager
def invalid_values_of(path: Path) -> Generator[None]:
    """Turn the refusal of a value by one of the codec's parts into a CheckpointError that names the file."""
    try:
        yield
    except (InputError, UsageError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_spec(raw: Mapping[str, Any]) -> ActionSpec:
    low = np.asarray([-np.inf if value is None else value for value in raw["low"]], np.float64)
    high = np.asarray([np.inf if value is None else value for value in raw["high"]], np.float64)
    return ActionSpec(tuple(raw["names"]), tuple(raw["units"]), low, high, raw["control_hz"], raw["gripper"])


def _write_spec(spec: ActionSpec) -> dict[str, Any]:
    return dataclasses.asdict(spec) | {"low": _finite_or_null(spec.low), "high": _finite_or_null(spec.high)}


def _finite_or_null(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _tuples(value: Any) -> Any:
    """Nested JSON lists as nested tuples; everything else as it is."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
