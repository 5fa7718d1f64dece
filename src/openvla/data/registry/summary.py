"""What a record makes of a data set, shown on its first episode: cameras, action, first steps."""

from __future__ import annotations

from typing import Any

from openvla.data.episode import Episode
from openvla.data.registry.record import DataRecord
from openvla.data.standardize import standardize
from openvla.errors import DataError

SHOWN_STEPS = 3


def describe(record: DataRecord, episode: Episode | None) -> dict[str, Any]:
    """The record as plain values, with the first standardised actions of `episode`, one list per step.

    A camera that the data lack is "missing". Raises DataError where there is no episode or it is not of this kind.
    """
    if episode is None:
        raise DataError(f"there is no episode to show {record.name!r} on; choose a split that has one")
    steps = standardize(record, episode.steps)
    cameras = {
        view: name if name in episode.image_keys else f"{name} is missing" for view, name in record.images.items()
    }
    return {
        "name": record.name,
        "cameras": cameras,
        "action": {
            "names": list(record.action.names),
            "units": list(record.action.units),
            "normalized": list(record.mask),
            "control_hz": record.action.control_hz,
            "gripper": record.action.gripper,
        },
        "proprio_dimensions": steps["proprio"].shape[1],
        "instruction": next(iter(steps["language_instruction"]), ""),
        "first_steps": steps["step"][:SHOWN_STEPS].tolist(),
        "first_actions": steps["action"][:SHOWN_STEPS].tolist(),
    }
