from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import IMAGE, Bright, Running, jpeg, running, to_wire

from openvla.serve import service
from openvla.serve.guard.limits import MIB, Limits
from openvla.serve.protocols import pictures

FLAT = np.zeros((1000, 1000, 3), np.uint8)
"""3 MB of pixels that fit into a file of a few kilobytes."""


def ask(server: Running) -> tuple[int, dict[str, str], Any]:
    return server.post({"image": base64.b64encode(jpeg(FLAT, "PNG")).decode(), "instruction": "go"})


def test_images_that_unfold_in_many_requests_at_once_cannot_fill_the_memory(tmp_path: Path) -> None:
    limits = Limits(pending_bytes=7 * MIB)
    with running(Bright(0.5), limits=limits, batch=1, deadline_s=20.0, audit=tmp_path / "audit") as server:
        replies: list[tuple[int, dict[str, str], Any]] = []
        threads = [threading.Thread(target=lambda: replies.append(ask(server))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(status for status, *_ in replies) == [200, 200, 503, 503]
        refused = next(reply for reply in replies if reply[0] == 503)
        assert refused[2]["reason"] == "memory"
        assert refused[1]["retry-after"] == "1"
        assert ask(server)[0] == 200
        assert server.service.memory.held == 0


def test_a_large_image_in_a_small_file_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    real = pictures.np.asarray

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def asarray(self, image: object) -> Any:
            threads.append(threading.current_thread().name)
            return real(image)

    monkeypatch.setattr(pictures, "np", Spy())
    with running(audit=tmp_path / "audit") as server:
        assert ask(server)[0] == 200
    assert len(threads) == 1
    assert threads[0].startswith("asyncio")


def ask_slowly(server: Running, pause_s: float, **fields: object) -> tuple[int, Any]:
    """Send the head of a request, then, after a pause, its body."""
    body = json.dumps({"image": IMAGE, "instruction": "go", **fields}, default=to_wire).encode()
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.putrequest("POST", "/act")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        time.sleep(pause_s)
        connection.send(body)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_the_askers_deadline_counts_from_the_head_of_its_request_and_the_servers_from_the_end(tmp_path: Path) -> None:
    policy = Bright()
    with running(policy, deadline_s=0.3, audit=tmp_path / "audit") as server:
        assert ask_slowly(server, 0.4)[0] == 200
        computed = len(policy.seen)
        status, answer = ask_slowly(server, 0.2, deadline_ms=100)
        assert (status, answer["reason"]) == (503, "deadline")
        assert "the request waited too long to be answered within its deadline" in answer["error"]
        assert len(policy.seen) == computed


def test_reading_a_request_counts_towards_the_servers_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = service.read_request

    def slow(*arguments: Any) -> Any:
        time.sleep(0.4)
        return real(*arguments)

    policy = Bright(0.3)
    with running(policy, batch=1, deadline_s=0.5, audit=tmp_path / "audit") as server:
        assert server.post({"image": IMAGE, "instruction": "go"})[0] == 200
        monkeypatch.setattr(service, "read_request", slow)
        status, _, answer = server.post({"image": IMAGE, "instruction": "go"})
        assert (status, answer["reason"]) == (503, "deadline")
