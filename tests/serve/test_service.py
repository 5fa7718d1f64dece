from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Bright, Running, jpeg, running

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
