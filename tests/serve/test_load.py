from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from load import Tally, generate, main
from serving import IMAGE, Bright, running, wait_until

from openvla.serve.server import Settings


def resident_bytes(pid: int) -> int:
    """Memory of a process now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_overload_is_refused_at_once_and_the_accepted_are_answered_in_time(tmp_path: Path) -> None:
    policy = Bright(0.1)
    with running(policy, batch=2, queue=8, deadline_s=1.0, audit=tmp_path / "audit") as server:
        tally = asyncio.run(generate(server.url, clients=16, rate_hz=80.0, seconds=3.0))
    assert not tally.other
    assert len(tally.answered_ms) > 10
    assert len(tally.refused_ms) > len(tally.answered_ms)
    assert sorted(tally.answered_ms)[int(0.99 * len(tally.answered_ms))] < 1000


def test_requests_that_come_together_run_together(tmp_path: Path) -> None:
    policy = Bright(0.05)
    with running(policy, batch=8, deadline_s=5.0, audit=tmp_path / "audit") as server:
        policy.batches.clear()
        tally = asyncio.run(generate(server.url, clients=8, rate_hz=float("inf"), seconds=1.5))
    assert not tally.other
    assert max(policy.batches) >= 4


def test_what_was_accepted_before_the_signal_is_answered(tmp_path: Path) -> None:
    with running(Bright(0.3), batch=1, deadline_s=5.0, audit=tmp_path / "audit") as server:
        replies: list[int] = []
        message = {"image": IMAGE, "instruction": "go"}
        threads = [threading.Thread(target=lambda: replies.append(server.post(message)[0])) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.service.unanswered == 4)
        server.server.stop()
        wait_until(lambda: server.service.scheduler.state == "shutting down")
        for thread in threads:
            thread.join()
    assert replies == [200] * 4


def test_the_load_generator_is_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(audit=tmp_path / "audit") as server:
        main(server.url, "2", "20", "0.5", "1")
    assert json.loads(capsys.readouterr().out)["answered"] > 0
    assert Tally().summary(1.0, 1.0)["answered"] == 0


@pytest.mark.slow
def test_the_shipped_policy_holds_the_bar_under_load(tmp_path: Path) -> None:
    """50 clients for a minute at twice what 32 well-behaved ones get: memory stays, who is let in is served in time."""
    command = [sys.executable, "-c", "import sys; from openvla.cli.main import main; sys.exit(main())", "serve"]
    server = subprocess.Popen(
        [*command, "--port", "0", "--audit", str(tmp_path / "audit")], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr
    try:
        url = next(line for line in server.stderr if " at http://" in line).rpartition(" at ")[2].strip()
        deadline_s = ready(url)
        before = resident_bytes(server.pid)
        alone = ask(url, 1, float("inf"), 5, deadline_s)
        full = ask(url, 32, float("inf"), 10, deadline_s)
        found = ask(url, 50, 2 * float(full["answered_hz"]), 60, deadline_s)
        grown = resident_bytes(server.pid) / before - 1
        report = {"alone": alone, "full": full, "twice": found, "deadline_s": deadline_s, "memory_growth": grown}
        print(json.dumps(report, indent=1))
        assert not found["others"]
        assert found["answered_ms"]["p99"] < 1e3 * deadline_s
        assert found["refused_ms"]["p99"] < 200
        assert alone["overhead_ms"]["p50"] < 3
        assert grown < 0.05
        assert found["late"] <= 0.001 * found["answered"]
        assert full["answered_hz"] > 2.7 * alone["answered_hz"]  # measured: 3.6; the rest is for a busy machine
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(Settings().drain_s) == 0
        print("left after", time.monotonic() - began)
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def ready(url: str) -> float:
    """Wait until the server gives actions; its deadline in seconds."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/healthz"):
                break
        except urllib.error.HTTPError:
            time.sleep(0.2)
    with urllib.request.urlopen(f"{url}/metadata") as reply:
        return float(json.load(reply)["deadline_s"])


def ask(url: str, clients: int, rate_hz: float, seconds: float, deadline_s: float) -> dict[str, Any]:
    """Load from another process."""
    program = Path(__file__).parent / "load.py"
    arguments = [str(value) for value in (url, clients, rate_hz, seconds, deadline_s)]
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
