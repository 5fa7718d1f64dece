"""A free camera over a MuJoCo scene: fast, anti-aliased, without a display.

Software rendering is the cost of an episode: 62 ms a frame with MuJoCo's defaults, 8 ms without shadows, reflections
and multisampling, whatever the size up to 224 px. So frames are drawn at twice the size and box-averaged down, which
gives smooth edges for less than multisampling costs.

Shapes: frames are uint8 (size, size, 3), RGB, row 0 at the top.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import weakref
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, MissingDependencyError, SimulatorError, require

MAX_SIZE = 512
SUPERSAMPLING = 2

DRIVERS = {
    "egl": "install the Debian packages libegl1 and libgl1-mesa-dri, or set MUJOCO_GL=osmesa (package libosmesa6)",
    "osmesa": "install the Debian package libosmesa6, or set MUJOCO_GL=egl (packages libegl1 and libgl1-mesa-dri)",
}
NO_DISPLAY = "set MUJOCO_GL=egl before anything imports mujoco, to draw without a display"


@dataclass(frozen=True)
class View:
    """Where a free camera stands: angles in degrees, distances in metres, `lookat` in world coordinates."""

    azimuth: float
    elevation: float
    distance: float
    lookat: tuple[float, float, float]


def require_mujoco() -> ModuleType:
    """Import `mujoco` with a backend that can draw here; EGL where there is no display and the user chose none.

    Raises MissingDependencyError without the package, SimulatorError without the driver (naming what to install).
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return require("mujoco", "sim")
    except MissingDependencyError:
        raise
    except Exception as error:  # PyOpenGL raises AttributeError, OSError or its own types for a missing library
        raise no_renderer(error) from error


def no_renderer(error: Exception) -> SimulatorError:
    """The sentence for a driver that is missing or broken."""
    backend = backend_name()
    cause = str(error).partition(". ")[0].partition("\n")[0].rstrip(".")
    if isinstance(error, AttributeError) or not cause:  # PyOpenGL looks a function up in a library that is None
        cause = "its library does not load"
    return SimulatorError(
        f"MuJoCo cannot draw with the backend {backend!r} ({cause}); {DRIVERS.get(backend, NO_DISPLAY)}"
    )


def backend_name() -> str:
    """What draws: egl, osmesa, glfw. MuJoCo chooses when it is imported; setting MUJOCO_GL later changes nothing."""
    chosen = getattr(sys.modules.get("mujoco.gl_context"), "GLContext", None)
    if chosen is not None:
        return str(chosen.__module__).removeprefix("mujoco.")
    return os.environ.get("MUJOCO_GL", "").lower() or "glfw"


_open: weakref.WeakSet[Camera] = weakref.WeakSet()


@functools.cache
def close_at_exit() -> None:
    """See to it that cameras close before MuJoCo shuts OpenGL down, or closing them prints a traceback.

    Exit handlers run in reverse order, and MuJoCo's is there once a renderer has been made, so this comes after.
    """
    atexit.register(lambda: [camera.close() for camera in list(_open)])


class Camera:
    """Draws one MuJoCo model from one view at one size."""

    def __init__(self, model: Any, view: View, size: int, *, markers: bool = False) -> None:
        """`markers`: also draw the model's sites, the coloured spheres that mark a goal.

        Raises InputError for a size outside 1..512, SimulatorError where nothing can be drawn.
        """
        if not 1 <= size <= MAX_SIZE:
            raise InputError(f"image size {size} is not between 1 and {MAX_SIZE} pixels; 128 and 224 are usual")
        mujoco = require_mujoco()
        drawn = size * SUPERSAMPLING
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = max(drawn, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(drawn, model.vis.global_.offheight)
        # One that fails half-way would print a traceback when collected, for want of these.
        mujoco.Renderer._gl_context = mujoco.Renderer._mjr_context = None
        if hasattr(mujoco, "GLContext"):
            mujoco.GLContext._context = None
        try:
            self._renderer = mujoco.Renderer(model, drawn, drawn)
        except Exception as error:  # see require_mujoco
            raise no_renderer(error) from error
        self._finalizer = weakref.finalize(self, self._renderer.close)
        _open.add(self)
        close_at_exit()
        self._size = size
        self._camera = mujoco.MjvCamera()
        self._camera.azimuth, self._camera.elevation = view.azimuth, view.elevation
        self._camera.distance, self._camera.lookat[:] = view.distance, view.lookat
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = markers
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """The picture of the state in `data` (an MjData whose positions are up to date), uint8 (size, size, 3)."""
        self._renderer.update_scene(data, self._camera, self._option)
        drawn: NDArray[np.uint8] = self._renderer.render()
        blocks = drawn.reshape(self._size, SUPERSAMPLING, self._size, SUPERSAMPLING, 3).astype(np.uint16)
        area = SUPERSAMPLING**2
        return ((blocks.sum(axis=(1, 3)) + area // 2) // area).astype(np.uint8)

    def close(self) -> None:
        """Free the OpenGL context; closing twice is fine."""
        self._finalizer()
