"""The world's words: what a robot shows, what it is told to do, and what it can do. numpy only.

Everything that talks to robots, simulators or networks uses these types and nothing else of the
package. Shapes: H, W image rows and columns; `dim` action dimensions; `chunk` consecutive actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError


@dataclass(frozen=True, eq=False)
class Observation:
    """What a policy sees at one control step.

    image: uint8 (H, W, 3), RGB, row 0 at the top.
    instruction: what to do, in plain words; not empty.
    extra_images: further cameras by name, same format.
    proprio: float (P,), the robot's own state in its own units, or None.

    Raises InputError for anything else: gray, RGBA, float or empty images, an empty instruction.
    """

    image: NDArray[np.uint8]
    instruction: str
    extra_images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict[str, NDArray[np.uint8]])
    proprio: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        check_image(self.image, "image")
        for name, image in self.extra_images.items():
            check_image(image, f"extra image {name!r}")
        if not self.instruction.strip():
            raise InputError("the instruction is empty; say in words what the robot should do, e.g. 'open the drawer'")
        if self.proprio is not None and not np.all(np.isfinite(self.proprio)):
            raise InputError(f"proprio contains NaN or infinity: {self.proprio}; send the robot's measured state")


@dataclass(frozen=True, eq=False)
class Action:
    """What a policy answers.

    values: float64 (chunk, dim), robot units, to be executed in order at the policy's control rate.
    tokens: int64 (chunk, dim) token ids behind the values, or None where there are none.
    confidence: float (chunk, dim), the probability of each chosen bin in [0, 1], or None.
    timing_ms: milliseconds spent by phase (preprocess, vision, prefill, decode, post, total).
    """

    values: NDArray[np.float64]
    tokens: NDArray[np.int64] | None = None
    confidence: NDArray[np.floating] | None = None
    timing_ms: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, eq=False)
class ActionSpec:
    """What an action means: names, units and range of each dimension, and how often one is due.

    names, units: one word per dimension, e.g. ("x", "y", "z", "gripper"), ("m", "m", "m", "1").
    low, high: float64 (dim,), the range a robot accepts; -inf and inf where unknown.
    control_hz: actions per second; 0.0 where unknown.
    gripper: what the last dimension says, one of "open_is_high", "open_is_low", "none".
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    control_hz: float
    gripper: str = "none"

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.units) == len(self.low) == len(self.high):
            raise InputError(
                f"an action spec needs as many units, low and high values as names; got {len(self.names)} names, "
                f"{len(self.units)} units, {len(self.low)} low and {len(self.high)} high"
            )
        if self.gripper not in GRIPPER_CONVENTIONS:
            raise InputError(f"gripper convention {self.gripper!r} is not one of {', '.join(GRIPPER_CONVENTIONS)}")

    @property
    def dim(self) -> int:
        """Number of action dimensions."""
        return len(self.names)


GRIPPER_CONVENTIONS = ("open_is_high", "open_is_low", "none")


def conventional_spec(dim: int) -> ActionSpec:
    """What `dim` action values mean where nothing says it, as for published checkpoints; range and rate are unknown.

    Seven are the convention of published policies: end-effector displacement in metres, rotation in radians, and a
    gripper that opens towards 1. Any other number gets the names action_0, action_1, ... and no unit.
    """
    low, high = np.full(dim, -np.inf), np.full(dim, np.inf)
    if dim == 7:
        names = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
        return ActionSpec(names, ("m", "m", "m", "rad", "rad", "rad", "1"), low, high, 0.0, "open_is_high")
    return ActionSpec(tuple(f"action_{i}" for i in range(dim)), ("1",) * dim, low, high, 0.0)


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into actions: local, remote or scripted."""

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean."""
        ...

    def act(self, observation: Observation) -> Action:
        """The next action (chunk) for one observation."""
        ...

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        """One action per observation, each equal to what `act` would give alone."""
        ...

    def reset(self) -> None:
        """Forget the episode so far."""
        ...


@dataclass(frozen=True, eq=False)
class Transition:
    """What one environment step leads to: the next observation, success so far, and the end of the episode."""

    observation: Observation
    success: bool
    done: bool


@runtime_checkable
class Environment(Protocol):
    """A world that a policy can act in: a simulator or a robot. Actions are in the units of `spec`."""

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean."""
        ...

    def reset(self, seed: int) -> Observation:
        """Start the episode that `seed` names; the same seed gives the same start."""
        ...

    def step(self, values: NDArray[np.float64]) -> Transition:
        """Apply one action, float64 (dim,), for one control period."""
        ...

    def close(self) -> None:
        """Free the simulator and its renderer."""
        ...


def check_image(image: object, what: str) -> None:
    """Raise InputError unless `image` is uint8 (H, W, 3) with H, W > 0; the message says how to convert."""
    rule = "a uint8 RGB array of shape (height, width, 3)"
    if not isinstance(image, np.ndarray):
        raise InputError(f"{what} is a {type(image).__name__}, not {rule}; use np.asarray(image)")
    if image.dtype != np.uint8:
        raise InputError(
            f"{what} has dtype {image.dtype}, not {rule}; scale to 0..255, round and call .astype(np.uint8)"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        hint = {2: "grayscale: use np.repeat(image[..., None], 3, -1)"}.get(image.ndim, "RGBA: use image[..., :3]")
        if image.ndim == 3 and image.shape[2] == 1:
            hint = "grayscale: use np.repeat(image, 3, -1)"
        elif not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 4)):
            hint = "one camera frame at a time, channels last"
        raise InputError(f"{what} has shape {image.shape}, not {rule} ({hint})")
    if 0 in image.shape:
        raise InputError(f"{what} has shape {image.shape}: it holds no pixels; check the camera")
