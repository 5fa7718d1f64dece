from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Bright, running

from openvla.errors import ServerError, UsageError
from openvla.serve.client import RemotePolicy
from openvla.serve.protocols.wire import dumps, loads
from openvla.spec import ActionSpec, Observation, Policy, conventional_spec

VALUES = np.linspace(-0.5, 0.5, 7)
OBSERVATION = Observation(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "Open the drawer")


class FakeServer(HTTPServer):
    """Answers every request with `body` and `status`, after `delay_s`; keeps what it was asked."""

    status, body, delay_s = 200, b"[]", 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        self.server.asked.append((self.path, loads(self.rfile.read(int(self.headers["Content-Length"])))))
        time.sleep(self.server.delay_s)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_the_request_is_the_published_one(server: FakeServer) -> None:
    server.body = dumps(VALUES)
    RemotePolicy(server.url, statistics="bridge_orig").act(OBSERVATION)
    RemotePolicy(server.url + "/act/").act(OBSERVATION)
    (path, first), (other_path, second) = server.asked
    assert path == other_path == "/act"
    assert np.array_equal(first["image"], OBSERVATION.image)
    assert first["image"].dtype == np.uint8
    assert (first["instruction"], first["unnorm_key"]) == ("Open the drawer", "bridge_orig")
    assert set(second) == {"image", "instruction"}


@pytest.mark.parametrize(
    ("body", "chunk"),
    [
        (json.dumps(VALUES.tolist()).encode(), 1),
        (dumps(VALUES), 1),
        (json.dumps(json.dumps(VALUES.tolist())).encode(), 1),
        (json.dumps(dumps(VALUES).decode()).encode(), 1),
        (dumps(np.stack([VALUES, VALUES])), 2),
        (dumps([VALUES, VALUES, VALUES]), 3),
    ],
)
def test_every_form_of_answer_is_an_action(server: FakeServer, body: bytes, chunk: int) -> None:
    server.body = body
    action = RemotePolicy(server.url).act(OBSERVATION)
    assert action.values.dtype == np.float64
    assert np.array_equal(action.values, np.stack([VALUES] * chunk))
    assert action.timing_ms["total"] > 0


def test_a_batch_is_one_request_each_and_reset_asks_nothing(server: FakeServer) -> None:
    server.body = dumps(VALUES)
    policy = RemotePolicy(server.url)
    assert isinstance(policy, Policy)
    policy.reset()
    assert len(policy.act_batch([OBSERVATION] * 3)) == len(server.asked) == 3


def test_the_given_spec_decides_on_the_dimensions(server: FakeServer) -> None:
    spec = ActionSpec(("x", "y"), ("m", "m"), np.zeros(2), np.ones(2), 5.0)
    server.body = b"[0.5, 1.0]"
    assert RemotePolicy(server.url, spec=spec).act(OBSERVATION).values.tolist() == [[0.5, 1.0]]
    assert RemotePolicy(server.url, spec=spec).spec is spec
    assert RemotePolicy(server.url).spec.names == conventional_spec(7).names
    with pytest.raises(ServerError, match=r"answered values of shape \(2,\), but .* \(chunk, 7\); pass the spec"):
        RemotePolicy(server.url).act(OBSERVATION)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, b'"error"', "answered 'error' and gives no reason; see its log, and check that the statistics asked for"),
        (200, b'{"error": "no such key"}', "answered: no such key; correct the request"),
        (200, b'{"action": [1]}', "answered: an object without actions"),
        (200, b"<html>", r"is no message of the /act protocol: .* is it a policy server\?"),
        (200, b'"<html>"', "is no message of the /act protocol"),
        (200, b'"\\"error\\""', "answered 'error' and gives no reason"),
        (200, b"null", r"answered None, but the actions of this policy have the shape \(chunk, 7\)"),
        (200, b"[[1, 2], [3]]", r"answered \[\[1, 2\], \[3\]\], but"),
        (200, b"[1, 2, 3, 4, 5, 6, NaN]", r"answered \[1, 2, 3, 4, 5, 6, nan\], but"),
        (
            400,
            b'{"error": "the instruction is empty"}',
            "refused the request with status 400: the instruction is empty",
        ),
        (404, b"not here", "refused the request with status 404: Not Found; correct the request, or see the server's"),
        (500, b"", "refused the request with status 500: Internal Server Error"),
    ],
)
def test_every_failure_is_one_sentence(server: FakeServer, status: int, body: bytes, message: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(ServerError, match=message):
        RemotePolicy(server.url).act(OBSERVATION)


def test_a_server_that_is_too_slow_is_given_up(server: FakeServer) -> None:
    server.delay_s = 0.3
    with pytest.raises(ServerError, match=r"no answer from .*/act in 0\.05 s; check its load or raise timeout_s"):
        RemotePolicy(server.url, timeout_s=0.05).act(OBSERVATION)


def test_a_server_that_is_not_there_is_named() -> None:
    with FakeServer() as server:
        policy = RemotePolicy(server.url)
        server.server_close()
        with pytest.raises(ServerError, match=r"no answer from the policy server at .* refused\); check that it runs"):
            policy.act(OBSERVATION)


def test_a_restarted_server_is_found_again(server: FakeServer) -> None:
    server.body = dumps(VALUES)
    policy = RemotePolicy(server.url)
    policy.act(OBSERVATION)
    server.status, server.body = 503, b""
    with pytest.raises(ServerError, match="status 503"):
        policy.act(OBSERVATION)
    server.status, server.body = 200, dumps(VALUES)
    assert np.array_equal(policy.act(OBSERVATION).values[0], VALUES)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://[oops"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a policy server; write it as http://host:8000"):
        RemotePolicy(url)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_timeout_is_positive(timeout_s: float) -> None:
    with pytest.raises(UsageError, match=r"timeout_s is .*; it must be positive"):
        RemotePolicy("http://127.0.0.1:1", timeout_s=timeout_s)


def test_the_client_needs_no_torch() -> None:
    code = "import sys; from openvla import RemotePolicy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_server_of_ours_says_what_its_actions_mean(tmp_path: Path) -> None:
    with running(Bright(chunk=2), audit=tmp_path / "audit") as ours:
        for url in (ours.url, ours.url.replace("http", "ws")):
            policy = RemotePolicy(url, robot="arm")
            assert isinstance(policy, Policy)
            assert policy.spec.names == ("x", "y", "gripper")
            action = policy.act(OBSERVATION)
            assert action.values.shape == (2, 3)
            assert action.confidence is not None
            assert action.tokens is not None
            assert {"server/queue", "total"} <= set(action.timing_ms)
            policy.close()
            assert policy.act(OBSERVATION).values.shape == (2, 3)
            policy.close()


def test_a_socket_carries_all_cameras_and_the_robots_state(tmp_path: Path) -> None:
    acting = Bright()
    seen = Observation(OBSERVATION.image, "go", {"wrist": OBSERVATION.image[:2]}, np.array([1.0, 2.0]))
    with running(acting, audit=tmp_path / "audit") as ours:
        policy = RemotePolicy(ours.url.replace("http", "ws"))
        policy.act(seen)
        policy.close()
    assert acting.seen[-1].extra_images["wrist"].shape == (2, 4, 3)
    assert acting.seen[-1].proprio is not None
    assert acting.seen[-1].proprio.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_key_is_sent_and_a_wrong_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("OPENVLA_API_KEY", "right")
    with running(audit=tmp_path / "audit") as ours:
        url = ours.url.replace("http", scheme)
        policy = RemotePolicy(url, api_key="right")
        assert policy.act(OBSERVATION).values.shape == (1, 3)
        policy.close()
        with pytest.raises(ServerError, match="status 401: a valid key is needed"):
            RemotePolicy(url, api_key="wrong").act(OBSERVATION)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_server_that_comes_back_is_found_again(tmp_path: Path, scheme: str) -> None:
    with running(audit=tmp_path / "audit") as ours:
        policy = RemotePolicy(ours.url.replace("http", scheme), retries=8)
        policy.act(OBSERVATION)
        port = ours.port
    with pytest.raises(ServerError, match="no answer from the policy server"):
        RemotePolicy(f"{scheme}://127.0.0.1:{port}").act(OBSERVATION)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(policy.act(OBSERVATION)))
    asking.start()
    time.sleep(0.2)
    with running(port=port, audit=tmp_path / "audit"):
        asking.join(10)
        policy.close()
    assert answers


def test_a_refusal_over_a_socket_is_one_sentence(tmp_path: Path) -> None:
    with running(audit=tmp_path / "audit") as ours:
        policy = RemotePolicy(ours.url.replace("http", "ws"), statistics="moon")
        with pytest.raises(
            ServerError, match=r"refused the request: unknown statistics 'moon'; the checkpoint has none"
        ):
            policy.act(OBSERVATION)
        policy.close()


def test_retries_are_a_number_from_zero() -> None:
    with pytest.raises(UsageError, match="retries is -1; give a number from 0"):
        RemotePolicy("http://127.0.0.1:1", retries=-1)


def test_the_client_needs_numpy_and_nothing_else() -> None:
    code = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in 'torch PIL starlette uvicorn tokenizers tyro prometheus_client'.split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Only())
from openvla import RemotePolicy, Observation
RemotePolicy('http://127.0.0.1:1'), RemotePolicy('ws://127.0.0.1:1')
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
