from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from openvla.errors import InputError, MissingDependencyError
from openvla.sim import camera
from openvla.sim.camera import Camera, View, no_renderer, require_mujoco

SCENE = """
<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".2" rgba="1 0 0 1"/>
<site type="sphere" size=".1" pos="0 .5 0" rgba="0 1 0 1"/></worldbody></mujoco>
"""
VIEW = View(azimuth=90.0, elevation=-90.0, distance=2.0, lookat=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def scene():
    mujoco = require_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def frame(scene, size, **options):
    model, data = scene
    eye = Camera(model, VIEW, size, **options)
    try:
        return eye.frame(data)
    finally:
        eye.close()
        eye.close()


def test_a_red_ball_below_the_camera_is_drawn_in_the_middle_with_smooth_edges(scene):
    image = frame(scene, 64)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert image[32, 32, 0] > 100
    assert image[32, 32, 1:].max() < 90
    assert image[0, 0].max() < 10
    assert len(np.unique(image[..., 0])) > 10


def test_goal_markers_are_drawn_only_when_asked_for(scene):
    def green(image):
        return int(((image[..., 1] > 80) & (image[..., 0] < 40)).sum())

    assert green(frame(scene, 64)) == 0
    assert green(frame(scene, 64, markers=True)) > 20


def test_a_frame_is_the_box_average_of_one_twice_as_large(scene):
    large = frame(scene, 64).astype(float)
    small = frame(scene, 32).astype(float)
    assert np.abs(large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)) - small).mean() < 1.0


@pytest.mark.parametrize("size", [0, -1, 513])
def test_an_impossible_image_size_is_refused(scene, size):
    with pytest.raises(InputError, match=f"image size {size} is not between 1 and 512 pixels; 128 and 224 are usual"):
        frame(scene, size)


@pytest.mark.parametrize(
    ("backend", "way_out"),
    [
        ("egl", "install the Debian packages libegl1 and libgl1-mesa-dri, or set MUJOCO_GL=osmesa"),
        ("osmesa", "install the Debian package libosmesa6, or set MUJOCO_GL=egl"),
        ("glfw", "set MUJOCO_GL=egl before anything imports mujoco, to draw without a display"),
    ],
)
def test_a_missing_driver_names_the_package_to_install(monkeypatch, backend, way_out):
    monkeypatch.setattr(camera, "backend_name", lambda: backend)
    message = str(no_renderer(ImportError("Cannot initialize a EGL device display. This likely means ...")))
    assert message.startswith(
        f"MuJoCo cannot draw with the backend '{backend}' (Cannot initialize a EGL device display)"
    )
    assert way_out in message
    assert "its library does not load" in str(no_renderer(AttributeError("'NoneType' has no eglQueryString")))


@pytest.mark.skipif(sys.platform != "linux", reason="EGL vendors are found this way on Linux only")
def test_without_a_driver_the_environment_is_refused_in_one_sentence():
    code = (
        "from openvla.errors import SimulatorError\n"
        "from openvla.sim.metaworld import MetaWorld\n"
        "try: MetaWorld('reach')\n"
        "except SimulatorError as error: print(error)\n"
    )
    surroundings = {**os.environ, "MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MuJoCo cannot draw with the backend 'egl'")
    assert "libegl1" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux" or "DISPLAY" in os.environ, reason="needs a machine without a display")
def test_mujoco_imported_too_early_is_told_so():
    code = (
        "import mujoco\n"
        "from openvla.errors import SimulatorError\n"
        "from openvla.sim.metaworld import MetaWorld\n"
        "try: MetaWorld('reach')\n"
        "except SimulatorError as error: print(error)\n"
    )
    surroundings = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True)
    assert "with the backend 'glfw'" in done.stdout
    assert "set MUJOCO_GL=egl before anything imports mujoco" in done.stdout


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(package, extra):
        raise MissingDependencyError(f"{package} comes with {extra}")

    monkeypatch.setattr(camera, "require", missing)
    with pytest.raises(MissingDependencyError, match="mujoco comes with sim"):
        require_mujoco()


def test_drawing_leaves_no_traceback_at_exit():
    code = "from openvla.sim.metaworld import MetaWorld\nstage = MetaWorld('reach', 32)\nstage.reset(0)\nprint('drawn')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "drawn\n"
    assert "Traceback" not in done.stderr
