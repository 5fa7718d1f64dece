"""How much of anything a client may send, and how long it may take."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from openvla.serve.guard.refusals import UNAVAILABLE, Refusal

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    request_bytes: one HTTP body or WebSocket message. pending_bytes: all messages in the server, and the images
        unfolded from them, together.
    image_pixels: all images of a message together, judged by their headers before any pixel is decoded.
    images: cameras per observation.
    instruction_chars, proprio_values: of one observation. kept_bytes: features of all robots that send only changes.
    head_s, body_s: to send the head of an HTTP request, and its body.
    ping_s, pong_s: a WebSocket is asked this often whether it is alive, and must answer within that.
    connections, sessions: open connections of any kind, and WebSockets among them. A session may hold one message in
        memory while it arrives, so `sessions * request_bytes` bounds that.
    """

    request_bytes: int = 16 * MIB
    pending_bytes: int = 1024 * MIB
    image_pixels: int = 4096 * 4096
    images: int = 8
    instruction_chars: int = 2000
    proprio_values: int = 512
    kept_bytes: int = 256 * MIB
    head_s: float = 10.0
    body_s: float = 20.0
    ping_s: float = 20.0
    pong_s: float = 60.0
    connections: int = 1000
    sessions: int = 128


class Memory:
    """Bytes of all requests held at this moment, bounded together."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most

    @contextmanager
    def account(self) -> Generator[Account]:
        """What one request holds; all of it is given back when the block ends."""
        account = Account(self)
        try:
            yield account
        finally:
            self.held -= account.held

    def take(self, count: int) -> None:
        """Hold `count` bytes more. Raises Refusal (503) where they are too many together."""
        if self.held + count > self._most:
            raise Refusal(UNAVAILABLE, "memory", "too many large requests arrive at once; try again later", 1.0)
        self.held += count


class Account:
    """One request's share of `Memory`."""

    def __init__(self, memory: Memory) -> None:
        self.held = 0
        self._memory = memory

    def add(self, count: int) -> None:
        """Hold `count` bytes more."""
        self._memory.take(count)
        self.held += count
