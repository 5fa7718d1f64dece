"""What a reader needs to repeat a run: command, date, machine, versions. Simulated pixels depend on most of them."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from openvla.sim.camera import backend_name

PACKAGES = ("openvla", "mujoco", "metaworld", "gymnasium", "numpy")


def circumstances(**settings: object) -> dict[str, str]:
    """Printable facts by name; `settings` of the run come first."""
    return {
        **{name.replace("_", " "): str(value) for name, value in settings.items()},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "rendering": backend_name(),
        "versions": ", ".join([f"Python {platform.python_version()}", *map(versioned, PACKAGES)]),
    }


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versioned(package: str) -> str:
    """Name and installed version of a distribution."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed"
