"""From a decoded message, of whichever protocol, to an `Observation` and what is asked about it.

Protocols and robots name the same thing differently; one table of names serves all of them. Among several images the
first name of the table wins as the policy's main camera, then the order of the message; the others travel along under
their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError
from openvla.serve.features.features import Packet, read_packet
from openvla.serve.guard.limits import Limits
from openvla.serve.guard.refusals import too_large
from openvla.serve.protocols.pictures import to_pixels
from openvla.spec import Observation

INSTRUCTION = ("instruction", "prompt", "task_description", "language_instruction", "task")
MAIN_IMAGE = (
    "image",
    "full_image",
    "observation/image",
    "observation/exterior_image_1_left",
    "agentview",
    "primary",
    "cam_high",
    "base_0_rgb",
)
PROPRIO = ("proprio", "state", "observation/state", "observation/joint_position")
GROUPS = ("images", "extra_images")
NAME_CHARS = 64
STAND_IN = np.full((1, 1, 3), 128, np.uint8)
"""Instead of a picture that stayed at the camera."""


@dataclass(frozen=True)
class Request:
    """One question to the policy.

    statistics: the published `unnorm_key`, or None for the server's own.
    robot: who asks, where it says so; names the queue, the rate-of-change history and the line in the page.
    captured_at: when the image was taken, seconds since 1970, or None. deadline_s: longest wait that is of use.
    newest: answer only this robot's newest question; those still waiting are refused.
    features: what was seen, where an encoder beside the camera sends that instead of the main image.
    """

    observation: Observation
    statistics: str | None = None
    robot: str | None = None
    captured_at: float | None = None
    deadline_s: float | None = None
    newest: bool = False
    features: Packet | None = None


def read_request(message: object, limits: Limits) -> Request:
    """The request in a decoded message. Raises InputError for a broken rule, Refusal (413) beyond a limit."""
    if not isinstance(message, Mapping):
        raise InputError(f"the message is a {type(message).__name__}, not a map of 'image' and 'instruction'")
    fields = cast("Mapping[object, Any]", message)
    packet = read_packet(fields["features"]) if "features" in fields else None
    main, extra = _images(fields, limits) if packet is None else (STAND_IN, {})
    deadline_ms = _number(fields, "deadline_ms")
    if deadline_ms is not None and deadline_ms <= 0:
        raise InputError(f"deadline_ms is {deadline_ms:g}; give the milliseconds from now, above 0")
    return Request(
        Observation(main, _instruction(fields, limits), extra, _proprio(fields, limits)),
        statistics=_name(fields, "unnorm_key"),
        robot=_name(fields, "robot"),
        captured_at=_number(fields, "captured_at"),
        deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
        newest=fields.get("newest") is True,
        features=packet,
    )


def _instruction(fields: Mapping[object, Any], limits: Limits) -> str:
    for name in INSTRUCTION:
        if name in fields:
            words = fields[name]
            if not isinstance(words, str):
                raise InputError(f"{name!r} is a {type(words).__name__}; say in words what the robot should do")
            if len(words) > limits.instruction_chars:
                raise too_large(f"{name!r}", len(words), limits.instruction_chars, "characters")
            if not words.isprintable():
                words = " ".join(words.split())
            return words.encode("utf-8", "replace").decode()  # a lone surrogate is no text that can travel on
    raise InputError("the message has no 'instruction'; say in words what the robot should do")


def _images(fields: Mapping[object, Any], limits: Limits) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """The main camera's pixels, and the others' by name."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if not isinstance(key, str) or key in PROPRIO:
            continue
        if key in GROUPS and isinstance(value, Mapping):
            found |= {str(name)[:NAME_CHARS]: item for name, item in cast("Mapping[object, Any]", value).items()}
        elif key in MAIN_IMAGE or _looks_like_image(key, value):
            found[key[:NAME_CHARS]] = value
    if not found:
        raise InputError("the message has no 'image'; send an array, or the bytes of a JPEG or PNG file")
    if len(found) > limits.images:
        raise too_large("the message", len(found), limits.images, "images")
    names = sorted(found, key=lambda name: MAIN_IMAGE.index(name) if name in MAIN_IMAGE else len(MAIN_IMAGE))
    pixels: dict[str, NDArray[Any]] = {}
    left = limits.image_pixels
    for name in names:
        pixels[name] = _channels_last(to_pixels(found[name], f"{name!r}", left))
        left -= math.prod(pixels[name].shape[:2])
    return pixels.pop(names[0]), pixels


def _looks_like_image(key: str, value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3
    return isinstance(value, bytes | str) and ("image" in key or "rgb" in key)


def _channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) also of (3, H, W), as openpi's ALOHA clients send it."""
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return pixels


def _proprio(fields: Mapping[object, Any], limits: Limits) -> NDArray[np.float64] | None:
    for name in PROPRIO:
        if fields.get(name) is not None:
            try:
                state = np.asarray(fields[name], np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{name!r} is not an array of numbers; send the robot's measured state") from error
            if state.size > limits.proprio_values:
                raise too_large(f"{name!r}", state.size, limits.proprio_values, "values")
            return state.reshape(-1)
    return None


def _name(fields: Mapping[object, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS or not value.isprintable():
        raise InputError(f"{key!r} is {str(value)[:NAME_CHARS]!r}; give a name of at most {NAME_CHARS} characters")
    return value


def _number(fields: Mapping[object, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_float(value)):
        raise InputError(f"{key!r} is {str(value)[:NAME_CHARS]!r}; give a finite number")
    return _float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of many digits
        return math.inf
