"""The policy that is served, with what a client should know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.serve.features.features import Cut
from openvla.serve.guard.refusals import bad_request
from openvla.serve.guard.safety import SafetyRules
from openvla.spec import Action, ActionSpec, Policy

PROTOCOLS = {"act": "POST /act", "openpi": "GET /ws or / (WebSocket)", "vla-eval": "GET / or /vla-eval (WebSocket)"}


@dataclass(frozen=True)
class Served:
    """A policy and its circumstances.

    name: of the checkpoint. fingerprint: digest of its weights, or None. chunk: actions per answer.
    statistics: the key in use, or None where the policy has none. keys: all that a client may ask for.
    decode: token ids int64 (chunk, dim) and a key of `keys` to values in robot units.
    cuts: where the policy takes features instead of pictures; its stepper must take `EncodedObservation`s.
    """

    policy: Policy
    name: str = "policy"
    fingerprint: str | None = None
    chunk: int = 1
    statistics: str | None = None
    keys: tuple[str, ...] = ()
    decode: Callable[[NDArray[np.int64], str], NDArray[np.float64]] | None = None
    cuts: Mapping[str, Cut] = field(default_factory=dict[str, Cut])

    def check_statistics(self, key: str | None) -> None:
        """Raise Refusal (400) for statistics that the policy does not have; None is the server's own."""
        if key is not None and key != self.statistics and key not in self.keys:
            known = ", ".join(sorted(self.keys)[:50]) or "none"
            raise bad_request(f"unknown statistics {key!r}; the checkpoint has {known}; leave 'unnorm_key' out")

    def rescale(self, action: Action, key: str | None) -> Action:
        """`action` in the units of the statistics `key`, where those are not the server's own."""
        if key is None or key == self.statistics or self.decode is None or action.tokens is None:
            return action
        return replace(action, values=self.decode(action.tokens, key))


def describe(served: Served, rules: SafetyRules, deadline_s: float) -> dict[str, Any]:
    """The document of /metadata, JSON-ready: an unknown bound is null."""
    spec = served.policy.spec
    return {
        "server": "openvla",
        "version": metadata.version("openvla"),
        "protocols": PROTOCOLS,
        "checkpoint": {"name": served.name, "fingerprint": served.fingerprint},
        "action": spec_to_dict(spec) | {"chunk": served.chunk},
        "statistics": {"key": served.statistics, "keys": sorted(served.keys)},
        "features": {name: asdict(cut) for name, cut in served.cuts.items()},
        "safety": {
            "low": _bounds(rules.low),
            "high": _bounds(rules.high),
            "max_change": _bounds(rules.max_change),
            "min_confidence": rules.min_confidence,
            "max_age_s": None if math.isinf(rules.max_age_s) else rules.max_age_s,
            "fallback": {"name": "hold", "values": ["last" if math.isnan(x) else float(x) for x in rules.hold]},
        },
        "deadline_s": deadline_s,
    }


def spec_to_dict(spec: ActionSpec) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "names": list(spec.names),
        "units": list(spec.units),
        "low": _bounds(spec.low),
        "high": _bounds(spec.high),
        "control_hz": float(spec.control_hz),
        "gripper": spec.gripper,
    }


def spec_from_dict(fields: dict[str, Any]) -> ActionSpec:
    """The inverse of `spec_to_dict`. Raises KeyError, TypeError or ValueError for another document."""
    return ActionSpec(
        names=tuple(str(name) for name in fields["names"]),
        units=tuple(str(unit) for unit in fields["units"]),
        low=np.array([-np.inf if x is None else x for x in fields["low"]], np.float64),
        high=np.array([np.inf if x is None else x for x in fields["high"]], np.float64),
        control_hz=float(fields["control_hz"]),
        gripper=str(fields["gripper"]),
    )


def _bounds(values: Iterable[float]) -> list[float | None]:
    return [float(x) if math.isfinite(x) else None for x in values]
