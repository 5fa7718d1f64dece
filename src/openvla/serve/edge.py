"""A policy in two halves: what sees runs beside the camera, what decides runs on a server, and features travel.

Where the model is cut is chosen by measuring (`road.py`), among the places that edge part and server have in common. A
server of other weights, or none that takes features, gets JPEG pictures. When the link is down the robot holds: the
server's declared fallback is the answer, as long as this robot ever reached it.

Needs numpy, and neither torch nor anything else of the package; the encoders are `openvla.infer.split.EdgeEncoder`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from openvla.errors import ServerError, UsageError
from openvla.serve.client import RemotePolicy
from openvla.serve.features.features import Cut, Encoding, changed_tokens, write_packet
from openvla.serve.features.road import IMAGE, Road, Step, Way, size_of
from openvla.serve.link import LostConnection, Overloaded, SocketLink
from openvla.serve.protocols.pictures import to_jpeg
from openvla.spec import Action, ActionSpec, Observation

PING_EVERY_S = 10.0
AUTO = "auto"

log = logging.getLogger("openvla.edge")


class Edge(Protocol):
    """The half beside the camera. cuts: by name, where it can stop."""

    @property
    def cuts(self) -> Mapping[str, Cut]: ...

    def encode(self, observation: Observation, cut: str) -> NDArray[np.uint16]:
        """bfloat16 bits (P, C) of the place `cut`."""
        ...


@dataclass(frozen=True)
class _Sent:
    """What the server has of this connection: the sequence number, and every token as it was when it travelled."""

    way: Way
    sequence: int
    features: NDArray[np.uint16]


class EdgePolicy(RemotePolicy):
    """`Policy` whose encoders run here.

    url: of the server, ws:// or wss://. edge: the encoders; None sends pictures.
    cut: "encoders", "projector", "image", or "auto" to choose by measurement.
    encodings: how features may travel. "bf16" gives the actions of the undivided policy in bfloat16; "int8" halves the
        bytes and rounds.
    tolerance: send only tokens that moved by more than this share of their length since they last travelled; 0 sends
        all that differ, None always sends all.
    jpeg_quality: of pictures, 1 to 100; None sends pixels.
    hold: answer with the server's fallback while the link is down; False raises instead.
    timeout_s: how long a step may take before the link counts as down. Further arguments: see `RemotePolicy`.

    `held` counts such answers, `way` and `sent_bytes` tell of the last message. Raises UsageError for other arguments.
    """

    def __init__(
        self,
        url: str,
        edge: Edge | None = None,
        *,
        cut: str = AUTO,
        encodings: tuple[Encoding, ...] = ("bf16",),
        tolerance: float | None = None,
        jpeg_quality: int | None = 90,
        hold: bool = True,
        spec: ActionSpec | None = None,
        statistics: str | None = None,
        api_key: str | None = None,
        robot: str | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        super().__init__(url, spec=spec, statistics=statistics, api_key=api_key, robot=robot, timeout_s=timeout_s)
        if not isinstance(self._link, SocketLink):
            raise UsageError(f"features travel over a WebSocket; write {url!r} as ws://host:8000 or wss://host:8000")
        if cut not in (AUTO, IMAGE, *(edge.cuts if edge else ("encoders", "projector"))):
            raise UsageError(f"the cut {cut!r} does not exist; choose auto, image, encoders or projector")
        if not encodings or not set(encodings) <= set(get_args(Encoding)):
            raise UsageError(f"the encodings are {encodings!r}; give 'bf16', 'int8' or both")
        if tolerance is not None and not 0 <= tolerance < 1:
            raise UsageError(f"the tolerance is {tolerance}; give a share from 0 to below 1, or None to send all")
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise UsageError(f"the JPEG quality is {jpeg_quality}; give a number from 1 to 100, or None for pixels")
        self.held, self.way, self.road = 0, Way(), Road()
        self._socket: SocketLink = self._link
        self._edge, self._cut, self._encodings = edge, cut, encodings
        self._tolerance, self._quality, self._hold = tolerance, jpeg_quality, hold
        self._sent: _Sent | None = None
        self._packed: tuple[_Sent | None, dict[str, object]] = (None, {})
        self._ways: list[Way] = []
        self._fallback: list[Any] | None = None
        self._last: NDArray[np.float64] | None = None
        self._pinged = float("-inf")

    @property
    def sent_bytes(self) -> int:
        """Bytes of the last message, without the framing of WebSocket and TCP."""
        return self._socket.sent_bytes

    def act(self, observation: Observation) -> Action:
        """The server's action; `timing_ms` has "edge", the encoding here, and "held": 1 where the link is down.

        Raises InputError for a picture the encoders do not take, ServerError where the server refuses, and, without
        `hold` or before the first connection, where it cannot be reached.
        """
        start = time.monotonic()
        try:
            self._know()
            self.way = self.road.choose(self._ways)
            features = self._encoded(observation)
            edge_s = time.monotonic() - start
            action = self._exchange(observation, features)
        except ServerError as error:
            self._sent = None
            if not self._hold or not is_down(error) or self._fallback is None:
                raise
            return self._held(time.monotonic() - start)
        total_s = time.monotonic() - start
        timing = dict(action.timing_ms)
        server_s = timing.get("server/total", 0.0) / 1e3
        self.road.learn(Step(self.way, self.sent_bytes, edge_s, total_s - edge_s, server_s))
        self._last = action.values[-1]
        return replace(action, timing_ms=timing | {"edge": 1e3 * edge_s, "total": 1e3 * total_s})

    def reset(self) -> None:
        """A new episode: the next message is sent whole, and a hold knows no last action."""
        self._sent, self._last = None, None

    def _know(self) -> None:
        """Learn what the server takes, and, now and then, how far away it is."""
        if time.monotonic() < self._pinged + PING_EVERY_S and self._ways and self._socket.connected:
            return
        said = self._socket.greeting(self.timeout_s)
        _ = self.spec
        self._ways = self._common(said)
        fallback = said.get("safety", {}).get("fallback", {}).get("values")
        self._fallback = fallback if isinstance(fallback, list) and len(fallback) == self.spec.dim else None
        self.road.learn_rtt(self._socket.ping(self.timeout_s))
        self._pinged = time.monotonic()

    def _common(self, said: Mapping[str, Any]) -> list[Way]:
        """The ways that this edge part, the server and the settings allow; pictures where there is no other."""
        theirs: Any = said.get("features")
        ours = self._edge.cuts if self._edge else {}
        ways: list[Way] = []
        for name, cut in ours.items():
            there = theirs.get(name) if isinstance(theirs, Mapping) else None
            fits = isinstance(there, Mapping) and cast("Any", there).get("fingerprint") == cut.fingerprint
            if not fits:
                log.warning("%s does not take this edge part's features behind the %s", self.url, name)
            elif self._cut in (AUTO, name):
                ways += [Way(name, encoding) for encoding in self._encodings]
                for way in ways[-len(self._encodings) :]:
                    self.road.expect(way, size_of(cut, way.encoding))
        return [*ways, Way()] if self._cut in (AUTO, IMAGE) or not ways else ways

    def _encoded(self, observation: Observation) -> NDArray[np.uint16] | bytes | None:
        """What travels instead of pixels."""
        if self.way.cut == IMAGE:
            return None if self._quality is None else to_jpeg(observation.image, self._quality)
        assert self._edge is not None
        return self._edge.encode(observation, self.way.cut)

    def _exchange(self, observation: Observation, seen: NDArray[np.uint16] | bytes | None) -> Action:
        """Ask; where the server lacks what a partial message builds on, ask again with all tokens."""
        if not isinstance(seen, np.ndarray):
            self._packed = (None, {} if seen is None else {"image": seen})
            return super().act(observation)
        partial = self._pack(seen)
        try:
            action = super().act(observation)
        except ServerError as error:
            if not partial or is_down(error) or isinstance(error, Overloaded):
                raise
            self._sent = None
            self._pack(seen)
            action = super().act(observation)
        self._sent = self._packed[0]
        return action

    def _pack(self, features: NDArray[np.uint16]) -> bool:
        """Prepare the message; True if it builds on the one before."""
        assert self._edge is not None
        before, way = self._sent, self.way
        sequence = 0 if before is None else before.sequence + 1
        changed, kept = None, features
        if before is not None and before.way == way and self._tolerance is not None:
            changed = changed_tokens(features, before.features, self._tolerance)
            kept = before.features.copy()
            kept[changed] = features[changed]
        fingerprint = self._edge.cuts[way.cut].fingerprint
        message = write_packet(features, way.cut, fingerprint, way.encoding, sequence, changed)
        self._packed = (_Sent(way, sequence, kept), {"features": message})
        return changed is not None

    def _message(self, observation: Observation) -> dict[str, object]:
        """The usual message, with what was prepared in the picture's place."""
        message = super()._message(observation)
        if "features" in self._packed[1]:
            del message["image"]
            message.pop("extra_images", None)
        return message | self._packed[1]

    def _held(self, spent_s: float) -> Action:
        assert self._fallback is not None
        last = np.zeros(len(self._fallback)) if self._last is None else self._last
        pairs = zip(self._fallback, last, strict=True)
        values = np.array([[x if isinstance(value, str) else float(value) for value, x in pairs]], np.float64)
        self.held += 1
        return Action(values, timing_ms={"held": 1.0, "total": 1e3 * spent_s})


def is_down(error: ServerError) -> bool:
    """Whether the link failed, rather than the server refused."""
    return isinstance(error, LostConnection) or isinstance(error.__cause__, TimeoutError)
