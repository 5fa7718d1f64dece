"""What the page at / shows: every action as it leaves, thinned to what an eye can follow, and the totals.

Pictures are encoded only while somebody watches, and a watcher that falls behind misses events: it never holds up a
robot.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import json
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openvla.serve.guard.safety import Flags
from openvla.serve.metrics import BUCKETS_S
from openvla.serve.protocols.pictures import to_jpeg
from openvla.spec import Action, Observation

PICTURES_HZ = 12.0
SHOWN_PIXELS = 320
CLIENTS = 64
FORGET_S = 30.0
BACKLOG = 32


@dataclass(frozen=True)
class Event:
    """One answered request. latency_ms: in the server."""

    client: str
    protocol: str
    observation: Observation
    action: Action
    flags: Flags
    latency_ms: float


@dataclass
class _Client:
    """One line of the table of clients. Times are of `time.monotonic`."""

    protocol: str
    instruction: str = ""
    actions: int = 0
    flagged: int = 0
    latency_ms: float = 0.0
    seen: float = 0.0
    pictured: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=32))

    def rate(self, now: float) -> float:
        """Actions per second over the last few."""
        if len(self.recent) < 2 or now - self.recent[-1] > 3:
            return 0.0
        return (len(self.recent) - 1) / max(1e-3, self.recent[-1] - self.recent[0])


class Live:
    """Counts every event and hands some of them to the watchers' queues; on the event loop only."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self.histogram = [0] * (len(BUCKETS_S) + 1)
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._watchers: set[asyncio.Queue[str]] = set()

    @contextmanager
    def watch(self) -> Generator[asyncio.Queue[str]]:
        """A queue of JSON texts, fed for as long as the block runs."""
        queue: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def publish(self, event: Event) -> None:
        """Count `event`, and show it where its client was not shown just before."""
        now = time.monotonic()
        self.answered += 1
        client = self._client(event.client, event.protocol)
        client.instruction = event.observation.instruction
        client.actions += 1
        client.flagged += bool(event.flags)
        client.latency_ms += (0.2 if client.actions > 1 else 1.0) * (event.latency_ms - client.latency_ms)
        client.seen = now
        client.recent.append(now)
        self.histogram[bisect.bisect_left(BUCKETS_S, event.latency_ms / 1e3)] += 1
        if self._watchers and now - client.pictured >= 1 / PICTURES_HZ:
            client.pictured = now
            self.send(_shown(event))

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand one JSON object to every watcher that keeps up."""
        text = json.dumps(message)
        for queue in self._watchers:
            if not queue.full():
                queue.put_nowait(text)

    def totals(self) -> dict[str, Any]:
        """Clients seen lately, the latency histogram, and the number of refusals; JSON-ready."""
        now = time.monotonic()
        for name in [name for name, client in self._clients.items() if now - client.seen > FORGET_S]:
            del self._clients[name]
        clients = [
            {
                "name": name,
                "protocol": client.protocol,
                "instruction": client.instruction,
                "actions": client.actions,
                "flagged": client.flagged,
                "latency_ms": round(client.latency_ms, 1),
                "hz": round(client.rate(now), 1),
            }
            for name, client in self._clients.items()
        ]
        histogram = {"upper_ms": [1e3 * edge for edge in BUCKETS_S], "counts": self.histogram}
        return {"kind": "totals", "clients": clients, "histogram": histogram, **self.counts()}

    def counts(self) -> dict[str, int]:
        """Requests "answered" and "refused" so far."""
        return {"answered": self.answered, "refused": self.refused}

    def _client(self, name: str, protocol: str) -> _Client:
        client = self._clients.setdefault(name, _Client(protocol))
        self._clients.move_to_end(name)
        while len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return client


def _shown(event: Event) -> dict[str, Any]:
    image = event.observation.image
    step = max(1, -(-max(image.shape[:2]) // SHOWN_PIXELS))
    confidence = event.action.confidence
    return {
        "kind": "action",
        "client": event.client,
        "instruction": event.observation.instruction,
        "image": base64.b64encode(to_jpeg(image[::step, ::step])).decode("ascii"),
        "values": event.action.values.tolist(),
        "confidence": None if confidence is None else np.nan_to_num(confidence).tolist(),
        "flags": event.flags.to_dict(),
        "latency_ms": round(event.latency_ms, 2),
    }
