from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import IMAGE, Bright, Running, array_of, jpeg, running

from openvla.errors import UsageError
from openvla.serve.guard.limits import Limits
from openvla.serve.served import Served
from openvla.serve.server import Server, Settings

MESSAGE = {"image": IMAGE, "instruction": "go"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(audit=tmp_path_factory.mktemp("audit") / "lines", limits=Limits(request_bytes=1 << 20)) as server:
        yield server


def test_one_action_comes_as_the_published_server_sends_it(server: Running) -> None:
    status, headers, body = server.post(MESSAGE)
    action = array_of(body)
    assert (status, action.shape, action.dtype) == (200, (3,), np.float64)
    assert "policy;dur=" in headers["server-timing"]
    assert "openvla-flags" not in headers


def test_a_chunk_comes_with_all_its_rows(tmp_path: Path) -> None:
    with running(Bright(chunk=4), audit=tmp_path / "audit") as server:
        assert array_of(server.post(MESSAGE)[2]).shape == (4, 3)


def test_a_file_is_as_good_as_pixels(server: Running) -> None:
    for kind in ("JPEG", "PNG"):
        text = base64.b64encode(jpeg(np.full((8, 8, 3), 51, np.uint8), kind)).decode()
        assert np.allclose(array_of(server.post(MESSAGE | {"image": text})[2]), 0.2, atol=0.01)


def test_who_wants_details_gets_them(server: Running) -> None:
    status, headers, body = server.post(MESSAGE | {"instruction": "far"}, Accept="application/vnd.openvla+json")
    assert status == 200
    assert body["values"] == [[1.0, 1.0, 1.0]]
    assert body["flags"] == {"clipped": ["x", "y", "gripper"], "slowed": [], "held": None}
    assert body["confidence"] == [[0.9] * 3]
    assert headers["openvla-flags"] == "clipped=x y gripper"


def test_what_was_done_to_an_action_is_counted(server: Running) -> None:
    server.post(MESSAGE)
    assert server.post(MESSAGE | {"instruction": "nan"})[1]["openvla-flags"] == "held=not_finite"
    text = server.request("GET", "/metrics")[2].decode()
    assert 'openvla_actions_held_total{reason="not_finite"}' in text
    assert "openvla_ready 1.0" in text


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{", {}, 400, "the message is not JSON"),
        (b"[]", {}, 400, "the message is a list, not a map"),
        (b'{"encoded": 7}', {}, 400, "'encoded' is not a string"),
        (b"[" + b"0," * 1_000_001 + b"0]", {}, 413, "the body has"),
        (b"{}", {"Content-Type": "application/x-pickle"}, 415, "bodies of type 'application/x-pickle' are not taken"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "bodies of Content-Encoding 'gzip' are not taken"),
        (b"{}", {"Origin": "http://evil.example"}, 403, "pages of other sites may not use this server"),
        (b" " * (1 << 20) + b"{}", {}, 413, "the body has 1048578 bytes, but at most 1048576 are taken"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(
    server: Running, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    got, _, answer = server.post(body, **headers)
    assert got == status
    assert words in answer["error"]


def test_a_defect_shows_nothing_of_its_inside(server: Running) -> None:
    status, _, answer = server.post(MESSAGE | {"instruction": "fail"})
    assert status == 500
    assert answer["error"] == "the policy failed on this request; the server's log says why"


def test_an_unknown_path_and_method_are_refused_alike(server: Running) -> None:
    assert server.request("GET", "/etc/passwd")[2]["error"] == "there is nothing at this path; see /openapi.json"
    assert server.request("GET", "/act")[0] == 405


def test_the_metadata_says_what_an_action_means(server: Running) -> None:
    document = server.request("GET", "/metadata")[2]
    assert document["action"]["names"] == ["x", "y", "gripper"]
    assert document["action"]["control_hz"] == 10.0
    assert document["safety"]["fallback"] == {"name": "hold", "values": [0.0, 0.0, "last"]}


def test_the_openapi_document_names_every_route(server: Running) -> None:
    document = server.request("GET", "/openapi.json")[2]
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/act",
        "/metadata",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/",
        "/ws",
        "/vla-eval",
    }
    for reference in set(json.dumps(document).split('"#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in document["components"]["schemas"]


def test_the_page_needs_no_other_host(server: Running) -> None:
    status, headers, page = server.request("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    for path in ("/page.css", "/page.js"):
        page += server.request("GET", path)[2]
    assert b"http://" not in page
    assert b"https://" not in page


def test_statistics_that_the_client_names_scale_the_action(tmp_path: Path) -> None:
    served = Served(Bright(), statistics="a", keys=("a", "b"), decode=lambda tokens, key: tokens + 0.5)
    with running(served=served, audit=tmp_path / "audit") as server:
        assert array_of(server.post(MESSAGE | {"unnorm_key": "a"})[2])[0] == pytest.approx(IMAGE.mean() / 255)
        assert array_of(server.post(MESSAGE | {"unnorm_key": "b"})[2]).tolist() == [0.5] * 3
        status, _, answer = server.post(MESSAGE | {"unnorm_key": "c"})
    assert (status, answer["error"].partition(";")[0]) == (400, "unknown statistics 'c'")


def test_a_key_is_needed_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLA_API_KEY", "right")
    audit = tmp_path / "audit"
    with running(audit=audit) as server:
        assert server.post(MESSAGE)[0] == 401
        assert server.post(MESSAGE, Authorization="Api-Key wrong")[0] == 401
        assert server.post(MESSAGE, Authorization="Bearer right")[0] == 200
        assert [server.request("GET", path)[0] for path in ("/healthz", "/metadata", "/metrics")] == [200, 401, 401]
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["status"], line["key"]) for line in lines] == [(401, None), (401, None), (200, "environment")]
    assert lines[-1]["instruction"] == "go"
    assert "right" not in audit.read_text().replace('"environment"', "")


def test_who_asks_too_often_is_told_when_to_return(tmp_path: Path) -> None:
    with running(rate=1.0, audit=tmp_path / "audit") as server:
        replies = [server.post(MESSAGE) for _ in range(2)]
    assert [reply[0] for reply in replies] == [200, 429]
    assert replies[1][1]["retry-after"] == "1"


def test_an_old_observation_is_refused(tmp_path: Path) -> None:
    with running(max_age_s=0.5, audit=tmp_path / "audit") as server:
        assert server.post(MESSAGE | {"captured_at": time.time() - 3})[0] == 422
        assert server.post(MESSAGE | {"captured_at": time.time() + 0.1})[0] == 200


def test_health_waits_for_the_warm_up(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(Bright):
        def act_batch(self, observations):
            gate.wait(10)
            return super().act_batch(observations)

    server = Server(Settings(port=0, batch=1, audit=tmp_path / "audit"))
    began = threading.Event()
    thread = threading.Thread(target=lambda: server.serve(Served(Slow()), started=lambda _: began.set()))
    thread.start()
    assert began.wait(10)
    host, port = server.url.rpartition("/")[2].split(":")
    inside = Running(host, int(port), None, server)
    assert inside.request("GET", "/healthz")[::2] == (503, {"status": "warming up"})
    status, headers, _ = inside.post(MESSAGE)
    assert (status, headers["retry-after"]) == (503, "1")
    gate.set()
    end = time.monotonic() + 10
    while inside.request("GET", "/healthz")[0] != 200:
        assert time.monotonic() < end
    server.stop()
    thread.join(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 70000}, "the port is 70000; give a number from 0"),
        ({"batch": 0}, "the batch is 0"),
        ({"deadline_s": 0.0}, "the deadline is 0.0; give seconds above 0"),
        ({"min_confidence": 1.5}, "the minimum confidence is 1.5; give a probability"),
        ({"host": "0.0.0.0", "port": 0}, r"0\.0\.0\.0 can be reached from other machines"),
        ({"host": "192.0.2.1", "insecure": True}, r"cannot listen on 192\.0\.2\.1 port 8000"),
        ({"certificate": Path("c.pem")}, "TLS needs both a certificate and its key"),
        ({"certificate": Path("c.pem"), "certificate_key": Path("k.pem")}, "cannot use the certificate c.pem"),
        ({"audit": Path("/absent/audit")}, "cannot write the audit to /absent/audit"),
    ],
)
def test_a_server_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Server(Settings(**settings))


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {port}: address already in use; choose"):
            Server(Settings(port=port))
