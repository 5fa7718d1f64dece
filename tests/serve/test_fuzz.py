from __future__ import annotations

import collections
import concurrent.futures
import logging
from pathlib import Path

import pytest
from fuzzing import malformed, slow_loris
from serving import IMAGE, Bright, Running, running, wait_until

from openvla.serve.guard.limits import Limits

IMPATIENT = Limits(head_s=1.0, body_s=1.0, ping_s=1.0, pong_s=1.0)


def connections(server: Running) -> int:
    """Connections that the server holds, of every kind."""
    listener = server.server._listener
    assert listener is not None
    return len(listener.server_state.connections)


def attack(server: Running, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Send `count` malformed requests, eight at a time; the server keeps its promises on each and afterwards."""
    caplog.set_level(logging.ERROR, "openvla.serve")
    policy = server.service.served.policy
    assert isinstance(policy, Bright)
    before = len(policy.seen)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda seed: (seed, malformed(server, seed)), range(count)))
    broken = [(seed, outcome) for seed, outcome in outcomes if not outcome.ok]
    assert not broken, f"{len(broken)} of {count}: {broken[:5]}"
    assert len(policy.seen) == before, f"the policy saw {policy.seen[before].instruction!r}"
    assert not caplog.records, caplog.records[0].getMessage()
    wait_until(lambda: connections(server) == 0 and server.service.sessions == 0 and server.service.unanswered == 0)
    assert server.post({"image": IMAGE, "instruction": "go"})[0] == 200
    print(collections.Counter(outcome.kind for _, outcome in outcomes).most_common())


def test_malformed_requests_are_refused_and_leave_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(limits=IMPATIENT, audit=tmp_path / "audit") as server:
        attack(server, 200, caplog)


@pytest.mark.slow
def test_ten_thousand_malformed_requests_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(limits=IMPATIENT, audit=tmp_path / "audit") as server:
        attack(server, 10_000, caplog)


def test_who_drips_bytes_is_hung_up_on(tmp_path: Path) -> None:
    with running(limits=IMPATIENT, audit=tmp_path / "audit") as server:
        assert slow_loris(server, 6.0) == ["408", "408", "408"]
        wait_until(lambda: connections(server) == 0)
