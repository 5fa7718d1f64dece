"""A load generator: clients that ask over kept connections at a fixed total rate, whatever the answers.

So that the rate does not fall with the speed of the answers, each has several connections and takes them in turn.

At an infinite rate each asks again when it has its answer, or, after a refusal, when the server says.

Run as a program it is a process of its own, so that it does not share the server's interpreter:

    python load.py URL CLIENTS RATE_HZ SECONDS DEADLINE_S

prints one JSON object: how many were answered and refused, and percentiles of both in milliseconds.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

CONNECTIONS = 8
"""Of one client at a fixed rate."""


@dataclass
class Tally:
    """Milliseconds of answered (200) and refused (503) requests, and what else happened.

    overhead_ms: of the answered ones, the part that was neither queue nor policy.
    """

    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    overhead_ms: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def summary(self, seconds: float, deadline_s: float) -> dict[str, object]:
        late = sum(value > 1e3 * deadline_s for value in self.answered_ms)
        return {
            "answered": len(self.answered_ms),
            "refused": len(self.refused_ms),
            "other": self.other[:5],
            "others": len(self.other),
            "answered_hz": round(len(self.answered_ms) / seconds, 1),
            "answered_ms": percentiles(self.answered_ms),
            "refused_ms": percentiles(self.refused_ms),
            "overhead_ms": percentiles(self.overhead_ms),
            "late": late,
        }


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 90, 99)} if values else {}


def request_bytes(size: int = 224) -> bytes:
    """POST /act with a JPEG of `size` pixels a side."""
    smooth = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(smooth).resize((size, size)).save(buffer, "JPEG", quality=95)
    body = json.dumps(
        {"image": base64.b64encode(buffer.getvalue()).decode(), "instruction": "open the drawer"}
    ).encode()
    head = f"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def client(host: str, port: int, start: float, period_s: float, end: float, tally: Tally, data: bytes) -> None:
    """One connection: asks every `period_s`, one question at a time, and makes up for what it could not ask in time."""
    loop = asyncio.get_running_loop()
    due = start
    while max(due, loop.time()) < end:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            while max(due, loop.time()) < end:
                await asyncio.sleep(due - loop.time())
                began = time.perf_counter()
                writer.write(data)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                body = await reader.readexactly(_length(head))
                took = 1e3 * (time.perf_counter() - began)
                _count(tally, head, took)
                due = due + period_s if period_s else loop.time() + _pause_s(head, body)
                if b"connection: close" in head.lower():
                    break
            writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            tally.other.append(repr(error))
            due = due + period_s if period_s else loop.time()


def _count(tally: Tally, head: bytes, took_ms: float) -> None:
    status = head[9:12]
    if status == b"200":
        tally.answered_ms.append(took_ms)
        inside = re.findall(rb"(?:queue|policy);dur=([\d.]+)", head)
        tally.overhead_ms.append(took_ms - sum(map(float, inside)))
    elif status == b"503":
        tally.refused_ms.append(took_ms)
    else:
        tally.other.append(status.decode())


def _length(head: bytes) -> int:
    return next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))


def _pause_s(head: bytes, body: bytes) -> float:
    """What a refusal says about when to ask again; 0 for an answer."""
    return float(json.loads(body).get("retry_after_s", 0.0)) if head[9:12] == b"503" else 0.0


async def generate(url: str, clients: int, rate_hz: float, seconds: float) -> Tally:
    """Ask for `seconds`; `rate_hz` is that of all clients together, inf for as fast as answers come."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    tally, data = Tally(), request_bytes()
    connections = clients if rate_hz == float("inf") else clients * CONNECTIONS
    period_s = connections / rate_hz
    begin = asyncio.get_running_loop().time() + 0.1
    async with asyncio.TaskGroup() as group:
        for n in range(connections):
            start = begin + period_s * n / connections
            group.create_task(client(parts.hostname, parts.port, start, period_s, begin + seconds, tally, data))
    return tally


def main(url: str, clients: str, rate_hz: str, seconds: str, deadline_s: str) -> None:
    tally = asyncio.run(generate(url, int(clients), float(rate_hz), float(seconds)))
    print(json.dumps(tally.summary(float(seconds), float(deadline_s))))


if __name__ == "__main__":
    main(*sys.argv[1:])
