from __future__ import annotations

import subprocess
import sys


def test_the_whole_room_imports_without_torch_mujoco_and_video():
    code = (
        "import importlib, pkgutil, sys, openvla.sim as room\n"
        "for module in pkgutil.iter_modules(room.__path__): importlib.import_module(f'openvla.sim.{module.name}')\n"
        "print(sorted({'torch', 'mujoco', 'metaworld', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
