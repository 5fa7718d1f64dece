"""uvicorn with two manners it lacks: it hangs up on those who never finish a request's head, and it leaves politely.

Leaving: the first SIGTERM or SIGINT stops the intake, what was accepted is answered, then connections are closed. All
of it ends by a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openvla.serve.guard.limits import Limits
from openvla.serve.service import Service
from openvla.serve.watch.demo import Demo

LAST_WORDS_S = 0.05
"""From the last answer to the closing of connections: the time to write it out."""

CLOSING_S = 2


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request does not begin and end its head in time.

    Without this a client that sends one byte a minute holds a connection for ever.
    """

    def __init__(self, *args: Any, head_s: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_s = head_s
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None and not self.transport.is_closing():
            self._wait_for_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(self._head_s, self._hang_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _hang_up(self) -> None:
        self._patience = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


class Listener(uvicorn.Server):
    """Serves one `Service` until it is told to stop.

    drain_s: longest time from the signal to the end.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float, demo: Demo | None = None) -> None:
        super().__init__(config)
        self._service = service
        self._drain_s = drain_s
        self._demo = demo
        self._started: Callable[[Service], None] | None = None

    async def listen(self, where: socket.socket, started: Callable[[Service], None] | None = None) -> None:
        """Take connections on `where` until told to stop; `started` is called when that begins."""
        self._started = started
        if self._demo is not None:
            self._demo.start(self._service, asyncio.get_running_loop())
        await self.serve([where])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self._started is not None:
            self._started(self._service)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests, finish those that were accepted, close."""
        give_up = time.monotonic() + max(0.0, self._drain_s - CLOSING_S)
        self._service.scheduler.stop_intake()
        if self._demo is not None:
            await asyncio.to_thread(self._demo.stop)
        while self._service.unanswered and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        await asyncio.sleep(LAST_WORDS_S)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals stop the server and end there: a server that left politely exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def configure(app: Any, limits: Limits, certificate: Path | None, key: Path | None) -> uvicorn.Config:
    """The settings of uvicorn: plain HTTP/1.1, no compression that could unfold, nothing believed from headers."""
    return uvicorn.Config(
        app,
        http=functools.partial(PatientProtocol, head_s=limits.head_s),  # type: ignore[arg-type]
        ws="websockets-sansio",
        ws_max_size=limits.request_bytes,
        ws_ping_interval=limits.ping_s,
        ws_ping_timeout=limits.pong_s,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=CLOSING_S,
        timeout_keep_alive=30,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
