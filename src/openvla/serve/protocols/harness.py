"""The model-server side of AllenAI's `vla-eval`, one session per WebSocket.

Every message is a map of type, payload, seq and timestamp. HELLO names versions and what the actions are; an
EPISODE_START begins anew; an OBSERVATION is answered by an ACTION, or an ERROR, with its seq. The harness executes one
action per observation, so a policy that answers chunks is asked once per chunk and the rest is handed out in order.

Source: package vla-eval 0.8, protocol version 1.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from importlib import metadata
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError
from openvla.serve.guard.refusals import Refusal
from openvla.serve.protocols import packing
from openvla.serve.service import Caller, Service
from openvla.spec import ActionSpec

PROTOCOL_VERSION = 1
TYPES = ("hello", "observation", "action", "episode_start", "episode_end", "error")
GRIPPERS = {"open_is_low": "binary_close_positive", "open_is_high": "continuous_01"}


def is_harness(message: object) -> bool:
    """Whether a decoded message has the harness's form."""
    return isinstance(message, Mapping) and "type" in message and "payload" in message


def hello(service: Service, seq: int = 0) -> dict[str, Any]:
    """What the server says of itself."""
    spec = service.served.policy.spec
    payload = {
        "harness_version": metadata.version("openvla"),
        "protocol_version": PROTOCOL_VERSION,
        "model_server": f"openvla {service.served.name}",
        "capabilities": {},
        "action_spec": action_spec(spec),
        "observation_spec": {
            "image": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
            "language": {"name": "language", "dims": 0, "format": "language"},
        },
    }
    return _message("hello", payload, seq)


def action_spec(spec: ActionSpec) -> dict[str, dict[str, Any]]:
    """The action's parts in the harness's words; what it has no word for is "raw"."""
    if spec.names[:3] != ("x", "y", "z"):
        text = ", ".join(f"{name} [{unit}]" for name, unit in zip(spec.names, spec.units, strict=True))
        return {"actions": {"name": "actions", "dims": spec.dim, "format": "raw", "description": text}}
    parts = {"position": {"name": "position", "dims": 3, "format": "delta_xyz", "description": spec.units[0]}}
    if spec.names[3:6] == ("roll", "pitch", "yaw"):
        parts["rotation"] = {"name": "rotation", "dims": 3, "format": "euler_xyz"}
    if spec.gripper in GRIPPERS:
        parts["gripper"] = {"name": "gripper", "dims": 1, "format": GRIPPERS[spec.gripper]}
    return parts


class Session:
    """One connection's episode.

    greeted: the connection's greeting was a HELLO already, so that the client's own gets no further answer.
    """

    def __init__(self, service: Service, *, greeted: bool) -> None:
        self._service = service
        self._greeted = greeted
        self._chunk: deque[NDArray[np.float64]] = deque()
        self._turn = asyncio.Lock()

    async def handle(self, message: Mapping[Any, Any], caller: Caller, size: int) -> bytes | None:
        """The packed answer to one message, or None where none is due."""
        seq = message.get("seq")
        seq = seq if isinstance(seq, int) else 0
        async with self._turn:  # messages of one session are handled in the order in which they came
            try:
                answer = await self._handle(message, caller, size, seq)
            except Refusal as refusal:
                answer = _message("error", {"error": str(refusal), "retry_after_s": refusal.retry_after_s}, seq)
        return None if answer is None else packing.pack(answer, "vla-eval")

    async def _handle(self, message: Mapping[Any, Any], caller: Caller, size: int, seq: int) -> dict[str, Any] | None:
        match message.get("type"):
            case "hello":
                return None if self._greeted else hello(self._service, seq)
            case "episode_start" | "episode_end":
                self._chunk.clear()
                self._service.guard.forget(caller.lane)
                return None
            case "observation":
                return _message("action", {"actions": await self._next_action(message, caller, size)}, seq)
            case "action" | "error":
                return None
            case other:
                with self._service.request(caller):
                    raise InputError(f"message type {str(other)[:32]!r} is unknown; send one of {', '.join(TYPES)}")

    async def _next_action(self, message: Mapping[Any, Any], caller: Caller, size: int) -> NDArray[np.float32]:
        """The next action of the chunk in hand, or of a new one; float32 (dim,)."""
        if not self._chunk:
            with self._service.request(caller) as books:
                books.size = size
                books.account.add(size)
                reply = await self._service.answer(lambda: cast("object", message["payload"]), books)
            self._chunk.extend(reply.action.values)
        return self._chunk.popleft().astype(np.float32)


def _message(kind: str, payload: dict[str, Any], seq: int) -> dict[str, Any]:
    return {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
