"""Meta-World as an `Environment`: fifty table-top tasks of a Sawyer arm, seen by one camera, told in words.

The arm follows a mocap point. An action of 1.0 moves that point by 1 cm in each simulator step of 12.5 ms, and one
action is held for five steps: 5 cm and 62.5 ms. The gripper value is the effort of the fingers: +1 closes, -1 opens.
The scripted experts that come with Meta-World succeed as often at this rate as at the simulator's own 80 Hz.

Meta-World leaves two things stale that a camera shows: positions right after a reset (a window that should be open is
drawn closed), and the spheres that mark goals after every step. Both are brought up to date here.

Source: Yu et al., "Meta-World", 2019; package `metaworld` 3.x (`SawyerXYZEnv.set_xyz_action` for the units).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, SimulatorError, lookup, require
from openvla.sim.camera import Camera, View, require_mujoco
from openvla.sim.tasks import DEFAULT_TASKS, MARKED_TASKS, TASKS
from openvla.spec import ActionSpec, Observation, Transition

__all__ = ["DEFAULT_TASKS", "IMAGE_SIZE", "SPEC", "TASKS", "MetaWorld"]

ACTION_REPEAT = 5
IMAGE_SIZE = 112
"""Pixels a side of what a policy sees where nobody says otherwise: the size that `nano` looks at."""
SIMULATOR_HZ = 80.0

SPEC = ActionSpec(
    names=("x", "y", "z", "gripper"),
    units=("5cm", "5cm", "5cm", "1"),
    low=np.full(4, -1.0),
    high=np.full(4, 1.0),
    control_hz=SIMULATOR_HZ / ACTION_REPEAT,
    gripper="open_is_low",
)

# Chosen by looking: in every task of DEFAULT_TASKS the gripper, the object and the goal are in view for all seeds, and
# the arm, which comes from the left, hides little of them.
VIEW = View(azimuth=152.0, elevation=-36.0, distance=1.12, lookat=(-0.03, 0.68, 0.17))

HAND_AND_GRIPPER = slice(0, 4)
NOW, BEFORE = slice(0, 18), slice(18, 36)


class MetaWorld:
    """One task of Meta-World. Observations hold the camera image, the instruction and the robot's own state.

    proprio is float64 (4,): the hand's x, y, z in metres and the gripper's opening (0 closed, 1 fully open).
    An episode ends at the first success, or after 500 simulator steps (100 actions).
    """

    def __init__(self, task: str, image_size: int = IMAGE_SIZE) -> None:
        """`image_size`: height and width of the observation's image in pixels, 1 to 512.

        Raises UsageError for an unknown task, InputError for another size, SimulatorError without a driver.
        """
        self.task = task
        self.instruction = lookup(task, TASKS, "Meta-World task")
        self._mujoco = require_mujoco()
        require("metaworld", "sim")
        environments = require("metaworld.env_dict", "sim").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        self._env: Any = environments[f"{task}-v3-goal-observable"](seed=0)
        self._env._freeze_rand_vec = False  # otherwise every episode starts as the first one
        self._env.seeded_rand_vec = True
        self._expert: Any = require("metaworld.policies", "sim").ENV_POLICY_MAP[f"{task}-v3"]()
        self._image_size = image_size
        self._cameras: dict[int, Camera] = {}
        self._state: NDArray[np.float64] | None = None
        self._over = False
        self._camera(image_size)

    @property
    def spec(self) -> ActionSpec:
        """x, y, z as fractions of 5 cm, gripper effort (+1 closes), all in [-1, 1], 16 Hz."""
        return SPEC

    def reset(self, seed: int) -> Observation:
        """Start the episode that `seed` (0 or above) names: same seed, same object positions, same first image."""
        if seed < 0:
            raise InputError(f"seed {seed} is negative; give a whole number from 0")
        self._env.seed(seed)
        state, _ = self._env.reset()
        self._mujoco.mj_forward(self._env.model, self._env.data)
        state[NOW] = state[BEFORE] = self._env._prev_obs = self._env._get_curr_obs_combined_no_goal()
        self._state, self._over = state, False
        return self._observe()

    def step(self, values: NDArray[np.floating]) -> Transition:
        """Hold one action, float (4,), clipped to [-1, 1], for 62.5 ms or until the task succeeds.

        Raises InputError for another shape, NaN or infinity, SimulatorError before `reset` and after the end.
        """
        action = checked_action(values)
        self._running()
        success, truncated = False, False
        for _ in range(ACTION_REPEAT):
            self._state, _, _, truncated, info = self._env.step(action)
            success = bool(info["success"])
            if success or truncated:
                break
        self._over = success or truncated
        return Transition(self._observe(), success, self._over)

    def expert_action(self, gain: float = 1.0) -> NDArray[np.float64]:
        """What the scripted expert would do now, float64 (4,) in [-1, 1]; it sees the state, not the image.

        gain: multiplies its x, y and z before they are clipped. The experts were tuned for an action every 12.5 ms.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts warn that their gains exceed the range; it is clipped here
            action = self._expert.get_action(self._running())
        scale = np.array([gain, gain, gain, 1.0])
        return np.clip(scale * np.asarray(action, np.float64), -1.0, 1.0)

    def render(self, size: int) -> NDArray[np.uint8]:
        """The camera's picture now, uint8 (size, size, 3), for videos. Raises SimulatorError before `reset`."""
        if self._state is None:
            raise SimulatorError(f"{self.task!r} has no state to draw yet; call reset(seed) first")
        for name, position in self._env._target_site_config:
            self._env._set_pos_site(name, position)
        return self._camera(size).frame(self._env.data)

    def close(self) -> None:
        """Free the renderer; closing twice is fine."""
        for camera in self._cameras.values():
            camera.close()
        self._cameras.clear()
        self._state = None

    def _running(self) -> NDArray[np.float64]:
        """The state vector of the episode in progress, or SimulatorError."""
        if self._state is None:
            raise SimulatorError(f"{self.task!r} has not started; call reset(seed) before the first step")
        if self._over:
            raise SimulatorError(f"the episode of {self.task!r} is over; call reset(seed) to start another")
        return self._state

    def _camera(self, size: int) -> Camera:
        if size not in self._cameras:
            self._cameras[size] = Camera(self._env.model, VIEW, size, markers=self.task in MARKED_TASKS)
        return self._cameras[size]

    def _observe(self) -> Observation:
        assert self._state is not None
        proprio = self._state[HAND_AND_GRIPPER].copy()
        return Observation(self.render(self._image_size), self.instruction, proprio=proprio)


def checked_action(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """`values` as float64 (4,), clipped to [-1, 1], or InputError."""
    action = np.asarray(values, np.float64)
    if action.shape != (SPEC.dim,):
        raise InputError(f"the action has shape {action.shape}, not ({SPEC.dim},); give {', '.join(SPEC.names)}")
    if not np.isfinite(action).all():
        raise InputError(f"the action {action.tolist()} contains NaN or infinity; every value must lie in [-1, 1]")
    return np.clip(action, SPEC.low, SPEC.high)
