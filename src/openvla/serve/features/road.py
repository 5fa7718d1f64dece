"""What is known of the link to a server, and the way to send an observation that would be answered first.

A step that sends way w costs   edge(w) + round trip + bytes(w) / bandwidth + server(w).   Round trip comes from pings,
bandwidth from what the link took longer than that, everything else from the steps so far. What was never measured
counts as nothing, so that every promising way is tried once; a way is left only for one that is clearly faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from openvla.serve.features.features import Cut, Encoding

IMAGE = "image"
MEMORY = 0.7
"""Weight of what was known before each new measurement."""

LEAST_BYTES = 2048
"""Smaller messages say nothing about the bandwidth."""

CLEARLY = 0.85


@dataclass(frozen=True)
class Way:
    """What travels: the picture, or features of the place `cut` in an encoding."""

    cut: str = IMAGE
    encoding: Encoding = "bf16"


@dataclass(frozen=True)
class Step:
    """One exchange, measured. size: bytes sent. Seconds: encoding at the edge, the whole exchange, in the server."""

    way: Way
    size: int
    edge_s: float
    exchange_s: float
    server_s: float


@dataclass
class Road:
    """Running estimates. rtt_s: round trip of a small message. s_per_byte: of a large one, on top."""

    rtt_s: float = 0.0
    s_per_byte: float | None = None
    _edge_s: dict[Way, float] = field(default_factory=dict[Way, float])
    _server_s: dict[Way, float] = field(default_factory=dict[Way, float])
    _bytes: dict[Way, float] = field(default_factory=dict[Way, float])
    _current: Way | None = None

    def expect(self, way: Way, size: int) -> None:
        """What a message of this way will be about as large as, where none was sent yet."""
        self._bytes.setdefault(way, size)

    def learn_rtt(self, seconds: float) -> None:
        """A ping took so long."""
        self.rtt_s = seconds if not self.rtt_s else min(seconds, MEMORY * self.rtt_s + (1 - MEMORY) * seconds)

    def learn(self, step: Step) -> None:
        """Take over one measurement."""
        for table, value in (
            (self._edge_s, step.edge_s),
            (self._server_s, step.server_s),
            (self._bytes, float(step.size)),
        ):
            table[step.way] = _mixed(table.get(step.way), value)
        if step.size >= LEAST_BYTES:
            travel_s = max(0.0, step.exchange_s - step.server_s - self.rtt_s)
            self.s_per_byte = _mixed(self.s_per_byte, travel_s / step.size)

    def cost(self, way: Way) -> float:
        """Seconds from the picture to the action."""
        travel_s = self.rtt_s + self._bytes.get(way, 0.0) * (self.s_per_byte or 0.0)
        return self._edge_s.get(way, 0.0) + travel_s + self._server_s.get(way, 0.0)

    def choose(self, ways: Iterable[Way]) -> Way:
        """The fastest of `ways`, which is the former one unless another is clearly faster. ways: at least one."""
        best = min(ways := list(ways), key=self.cost)
        if self._current not in ways or self.cost(best) < CLEARLY * self.cost(self._current):
            self._current = best
        return self._current


def size_of(cut: Cut, encoding: Encoding) -> int:
    """Bytes of whole features."""
    return cut.tokens * (2 * cut.channels if encoding == "bf16" else cut.channels + 4)


def _mixed(known: float | None, value: float) -> float:
    return value if known is None else MEMORY * known + (1 - MEMORY) * value
