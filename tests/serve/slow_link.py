"""An emulated link: a TCP proxy with a bandwidth, a delay, and losses as a TCP connection shows them, as stalls."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

SEGMENT = 1448
"""Bytes of a packet, of which `loss` is the share that has to be sent again."""


@dataclass
class SlowLink:
    """bits_per_s: of each direction. delay_s: one way. loss: share of packets; each stalls the stream for `stall_s`.

    `cut` breaks all connections and refuses new ones until `mend`.
    """

    target: tuple[str, int]
    bits_per_s: float = 1e9
    delay_s: float = 0.0
    loss: float = 0.0
    stall_s: float = 0.2
    seed: int = 0
    address: tuple[str, int] = ("", 0)
    down: bool = False
    _sockets: list[socket.socket] = field(default_factory=list[socket.socket])

    def cut(self) -> None:
        self.down = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.down = False

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            if self.down:
                near.close()
                continue
            far = socket.create_connection(self.target)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                for each in (source, sink):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line: queue.Queue[tuple[float, bytes]] = queue.Queue(64)
                threading.Thread(target=self._take, args=(source, line), daemon=True).start()
                threading.Thread(target=self._give, args=(sink, line), daemon=True).start()

    def _take(self, source: socket.socket, line: queue.Queue[tuple[float, bytes]]) -> None:
        """Read no faster than the bandwidth, and say when each piece arrives at the other end."""
        chance, free = random.Random(self.seed), time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(4 * SEGMENT):
                lost = sum(chance.random() < self.loss for _ in range(0, len(data), SEGMENT))
                free = max(free, time.monotonic()) + 8 * len(data) / self.bits_per_s + lost * self.stall_s
                time.sleep(max(0.0, free - time.monotonic()))
                line.put((free + self.delay_s, data))
        line.put((0.0, b""))

    def _give(self, sink: socket.socket, line: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = line.get()
                if not data:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for each in self._sockets:
            each.close()


@contextlib.contextmanager
def slow_link(host: str, port: int, **properties: float) -> Iterator[SlowLink]:
    """A running link to a server; connect to its `address`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = SlowLink((host, port), address=listener.getsockname()[:2], **properties)  # type: ignore[arg-type]
        thread = threading.Thread(target=link.accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield link
        finally:
            link.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(2)
