"""A server in a thread over a policy without weights, and the few lines of HTTP that tests speak with it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from openvla.serve.served import Served
from openvla.serve.server import Server, Settings
from openvla.serve.service import Service
from openvla.spec import Action, ActionSpec, Observation

SPEC = ActionSpec(("x", "y", "gripper"), ("m", "m", "1"), np.full(3, -1.0), np.ones(3), 10.0, "open_is_low")
IMAGE = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)


class Bright:
    """Answers with the mean brightness, after a fixed time per batch; keeps the sizes of its batches."""

    spec = SPEC

    def __init__(self, seconds: float = 0.0, chunk: int = 1) -> None:
        self.seconds, self.chunk = seconds, chunk
        self.batches: list[int] = []
        self.seen: list[Observation] = []
        self.confidence = 0.9

    def act(self, observation: Observation) -> Action:
        return self.act_batch([observation])[0]

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        time.sleep(self.seconds)
        self.batches.append(len(observations))
        self.seen += observations
        return [self._action(observation) for observation in observations]

    def reset(self) -> None:
        pass

    def _action(self, observation: Observation) -> Action:
        if observation.instruction == "fail":
            raise ArithmeticError("secret inner workings")
        values = np.full((self.chunk, 3), observation.image.mean() / 255)
        values[:, 0] += np.arange(self.chunk) / 10
        if observation.instruction == "nan":
            values[:] = np.nan
        if observation.instruction == "far":
            values[:] = 7.0
        shape = (self.chunk, 3)
        return Action(values, np.zeros(shape, np.int64), np.full(shape, self.confidence), {"total": 1e3 * self.seconds})


@dataclass
class Running:
    """A server that answers. `service` is its inside."""

    host: str
    port: int
    service: Service
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def post(self, message: object, **headers: str) -> tuple[int, dict[str, str], Any]:
        body = message if isinstance(message, bytes) else json.dumps(message, default=to_wire).encode()
        return self.request("POST", "/act", body, {"Content-Type": "application/json"} | headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            content = reply.read()
            if "json" in reply.headers.get("content-type", ""):
                return reply.status, dict(reply.headers), json.loads(content)
            return reply.status, dict(reply.headers), content
        finally:
            connection.close()


def to_wire(value: np.ndarray) -> Any:
    from openvla.serve.protocols.wire import dumps

    return json.loads(dumps(value))


def array_of(reply: dict[str, Any]) -> np.ndarray:
    """The array in a decoded /act reply."""
    from openvla.serve.protocols.wire import loads

    return loads(json.dumps(reply))


@contextlib.contextmanager
def running(policy: Any = None, demo: Any = None, served: Served | None = None, **settings: Any) -> Iterator[Running]:
    """A server on a free port of 127.0.0.1, warm."""
    server = Server(Settings(**{"port": 0, "batch": 4, "drain_s": 3.0} | settings))
    services: list[Service] = []
    begun = threading.Event()

    def started(service: Service) -> None:
        services.append(service)
        begun.set()

    acting = policy or Bright()
    what = served or Served(acting, chunk=acting.chunk)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve(what, demo, started=started)
        except BaseException as error:
            failures.append(error)
            begun.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert begun.wait(10)
        assert not failures, failures
        wait_until(lambda: services[0].scheduler.state != "warming up")
        host, port = server.url.rpartition("/")[2].split(":")
        yield Running(host, int(port), services[0], server)
    finally:
        server.stop()
        thread.join(15)
        server.close()
    assert not thread.is_alive()
    assert not failures, failures


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def jpeg(image: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()
