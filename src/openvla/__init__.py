"""OpenVLA: look at a camera image, read an instruction, emit a robot action."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvla.errors import OpenVLAError
    from openvla.infer.policy import load_policy
    from openvla.serve.client import RemotePolicy
    from openvla.sim.rollout import evaluate
    from openvla.spec import Action, ActionSpec, Observation, Policy

__all__ = ["Action", "ActionSpec", "Observation", "OpenVLAError", "Policy", "RemotePolicy", "evaluate", "load_policy"]

_HOME = {
    "Action": "openvla.spec",
    "ActionSpec": "openvla.spec",
    "Observation": "openvla.spec",
    "OpenVLAError": "openvla.errors",
    "Policy": "openvla.spec",
    "RemotePolicy": "openvla.serve.client",
    "evaluate": "openvla.sim.rollout",
    "load_policy": "openvla.infer.policy",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use, so that `import openvla` stays free of torch and numpy."""
    if name not in _HOME:
        raise AttributeError(f"module 'openvla' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
