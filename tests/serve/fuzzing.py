"""Malformed requests over every field of every protocol, and the rude things that sockets can do.

`malformed(seed)` names one request of `KINDS`, for ever the same. What a server must do with it: answer with a status
of 400 to 499, or, over a WebSocket, with a text or an ERROR message or a close code; or hang up. Never a 5xx, never a
traceback.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from serving import Running, jpeg
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
LEAK = ("Traceback", 'File "', ".py", "Error(")

ODD: list[Any] = [
    None, True, -1, 0, 10**18, -(10**18), 1.5, float("nan"), float("inf"), "", " ", "x" * 5000, "\ud800", "\x00", [],
    {}, [[[]]], {"a": {"b": {}}}, [1, 2, 3], "AAAA", "data:image/png;base64,", "../../etc/passwd", "__import__('os')",
]  # fmt: skip
SHAPES: list[Any] = [
    [4, 4, 4], [4, 4], [48], [0], [0, 0, 0], [-1, 4, 3], [2**31, 2**31, 3], [2**62], [10**30], [1] * 65, ["4", 4, 3],
    [4.0, 4, 3], None, "4,4,3", {}, [True, 4, 3], [[4], [4], [3]],
]  # fmt: skip
DTYPES: list[Any] = [
    "|O", "O", "object", "|V48", "<U4", "|S1", "M8[ns]", "f1", "<f16", "<c8", "u1,u1", "(3,)u1", "", None, 7, [], {},
    "a" * 1000, "|u1\x00", "torch.float32", "float128", "<f4", "<f8", "|b1",
]  # fmt: skip
FILES = [
    b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.4", b"\x00" * 100, b"<svg/>", b"\x80\x04K\x01."
]  # fmt: skip
FIELDS = ("image", "instruction", "unnorm_key", "robot", "captured_at", "deadline_ms", "proprio", "extra_images")


@dataclass(frozen=True)
class Outcome:
    """What the server did: a status, a close code, or words; `ok` where it kept its promise."""

    kind: str
    ok: bool
    detail: str


def array_field(rng: random.Random) -> dict[str, Any]:
    """A json_numpy array with one thing wrong."""
    field: dict[str, Any] = {
        "__numpy__": base64.b64encode(PIXELS.tobytes()).decode(),
        "dtype": "|u1",
        "shape": [4, 4, 3],
    }
    match rng.randrange(5):
        case 0:
            field["shape"] = rng.choice(SHAPES)
        case 1:
            field["dtype"] = rng.choice(DTYPES)
        case 2:
            field["__numpy__"] = rng.choice([*ODD, "====", "A", base64.b64encode(rng.randbytes(7)).decode()])
        case 3:
            del field[rng.choice(list(field))]
        case _:
            field |= {"shape": rng.choice(SHAPES), "dtype": rng.choice(DTYPES)}
    return field


def wrong_message(rng: random.Random) -> Any:
    """A message for POST /act with one wrong field, which no server can take."""
    good: dict[str, Any] = {
        "image": {"__numpy__": base64.b64encode(PIXELS.tobytes()).decode(), "dtype": "|u1", "shape": [4, 4, 3]},
        "instruction": "go",
    }
    match rng.randrange(7):
        case 0:
            return good | {"image": array_field(rng), "instruction": ""}
        case 1:
            return good | {"image": rng.choice([x for x in ODD if x != "AAAA"])}
        case 2:
            return good | {"instruction": rng.choice([x for x in ODD if not (isinstance(x, str) and x.strip())])}
        case 3:
            return good | {
                rng.choice(["unnorm_key", "robot"]): rng.choice([0, 1.5, [], {}, "", "x" * 65, "a\x00"]),
                "image": 0,
            }
        case 4:
            wrong = rng.choice([float("nan"), float("inf"), "soon", [], {}, True, 10**400])
            return good | {rng.choice(["captured_at", "deadline_ms"]): wrong}
        case 5:
            return good | {"proprio": rng.choice(["x", {}, [[1], [2, 3]], [float("nan")], [0] * 600, [None]])}
        case _:
            return rng.choice(ODD)


def http(
    server: Running, body: bytes, content_type: str = "application/json", *, more: str = "", length: int | None = None
) -> bytes:
    """One raw request; the whole reply."""
    size = len(body) if length is None else length
    lines = ("POST /act HTTP/1.1", "Host: x", f"Content-Type: {content_type}", f"Content-Length: {size}", more)
    return raw(server, "\r\n".join(lines).encode() + b"\r\n" + body)


def raw(server: Running, data: bytes, *, half_close: bool = False, wait_s: float = 10.0) -> bytes:
    """What comes back for some bytes, up to the end of the first reply or of the connection."""
    with socket.create_connection((server.host, server.port), timeout=wait_s) as link:
        try:
            link.sendall(data)
            if half_close:
                link.shutdown(socket.SHUT_WR)
            return _first_reply(link)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def _first_reply(link: socket.socket) -> bytes:
    reply = b""
    while True:
        part = link.recv(65536)
        reply += part
        head, end, body = reply.partition(b"\r\n\r\n")
        if not part:
            return reply
        sizes = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if end and sizes and len(body) >= sizes[0]:
            return reply


def judge_http(reply: bytes) -> Outcome:
    """Whether a reply is a refusal; none at all means that the server hung up, which it may."""
    text = reply.decode("latin-1")
    status = text[9:12] if text.startswith("HTTP/1.1 ") else "none"
    leaks = [word for word in LEAK if word in text]
    return Outcome(f"http {status}", (status == "none" or status.startswith("4")) and not leaks, text[-300:])


def fuzz_json(server: Running, rng: random.Random) -> Outcome:
    message = wrong_message(rng)
    if rng.random() < 0.3:
        message = {"encoded": json.dumps(message) if rng.random() < 0.7 else message}
    body = json.dumps(message).encode()
    match rng.randrange(6):
        case 0:
            body = body[: rng.randrange(len(body))]
        case 1:
            body = rng.randbytes(rng.randrange(200))
        case 2:
            body = b'{"image":' + b"[" * rng.choice([10, 1000, 100_000]) + body
        case _:
            pass
    return judge_http(http(server, body))


def fuzz_head(server: Running, rng: random.Random) -> Outcome:
    body = b'{"instruction": "go"}'
    match rng.randrange(9):
        case 0:
            kinds = [
                "text/plain",
                "application/x-pickle",
                "multipart/form-data",
                "",
                "application/json" * 300,
                "image/png",
            ]
            return judge_http(http(server, body, rng.choice(kinds)))
        case 1:
            return judge_http(http(server, b"", length=rng.choice([10**9, 10**30])))
        case 2:
            return judge_http(http(server, body, more=f"Content-Encoding: {rng.choice(['gzip', 'br', 'x'])}\r\n"))
        case 3:
            return judge_http(raw(server, rng.randbytes(rng.randrange(1, 300)) + b"\r\n\r\n", half_close=True))
        case 4:
            more = "Transfer-Encoding: chunked\r\n"
            head = f"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}\r\n".encode()
            return judge_http(
                raw(server, head + rng.choice([b"zz\r\n", b"ffffffffffffffff\r\n", b"5\r\nab"]), half_close=True)
            )
        case 5:
            method = rng.choice(["PUT", "DELETE", "TRACE", "PATCH", "GET"])
            return judge_http(raw(server, f"{method} /act HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()))
        case 6:
            path = rng.choice(
                ["/../../etc/passwd", "/%2e%2e/%00", "/" + "a" * 9000, "/act/../x", "//x", "/page/page.js"]
            )
            return judge_http(raw(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
        case 7:
            head = b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 70\r\n\r\n"
            return judge_http(raw(server, head + body, half_close=True))
        case _:
            return judge_http(http(server, body, more="Origin: http://evil.example\r\n"))


def fuzz_image(server: Running, rng: random.Random) -> Outcome:
    good = rng.choice([jpeg(PIXELS), jpeg(PIXELS, "PNG")])
    match rng.randrange(4):
        case 0:
            data = rng.choice(FILES)
        case 1:
            data = good[: rng.randrange(len(good) // 2)]
        case 2:
            data = _png_of(rng.choice([(2**31 - 1, 2**31 - 1), (50_000, 50_000), (0, 5)]))
        case _:
            data = jpeg(np.zeros((4, 4), np.uint8))
    return judge_http(
        http(server, json.dumps({"image": base64.b64encode(data).decode(), "instruction": "go"}).encode())
    )


def _png_of(size: tuple[int, int]) -> bytes:
    """A PNG file that claims `size` and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def packed_array(rng: random.Random, keys: Callable[[str], Any]) -> dict[Any, Any]:
    field: dict[Any, Any] = {
        keys("__ndarray__"): True,
        keys("data"): PIXELS.tobytes(),
        keys("dtype"): "|u1",
        keys("shape"): [4, 4, 3],
    }
    odd = [x for x in ODD if x != "\ud800"]
    match rng.randrange(4):
        case 0:
            field[keys("shape")] = rng.choice([x for x in SHAPES if x != [10**30]])
        case 1:
            field[keys("dtype")] = rng.choice(DTYPES)
        case 2:
            field[keys("data")] = rng.choice([*odd, b"", b"\x80\x04K\x01."])
        case _:
            field = {
                keys("__image__"): True,
                keys("format"): rng.choice(["png", "jpeg", "tiff", 7]),
                keys("data"): rng.choice(FILES),
            }
    return field


def fuzz_socket(server: Running, rng: random.Random) -> Outcome:
    """openpi's and vla-eval's protocol."""
    harness = rng.random() < 0.5
    image = packed_array(rng, str if harness else str.encode)
    observation = {"image": image, "prompt": rng.choice(["", 7, None, [], b"go"])}
    message: Any = observation
    if harness:
        kind = rng.choice(["observation", "observation", "dance", 7, None, [], {}])
        message = {
            "type": kind,
            "payload": rng.choice([observation, 7, None, [], "x"]),
            "seq": rng.choice([1, "a", None, -5]),
        }
    data = msgpack.packb(message)
    match rng.randrange(6):
        case 0:
            data = data[: rng.randrange(len(data))]
        case 1:
            data = rng.choice(
                [
                    b"",
                    b"\xc1",
                    b"\x91" * 100_000,
                    b"\xdd\xff\xff\xff\xff",
                    b"\xc9\xff\xff\xff\xff\x01",
                    rng.randbytes(64),
                ]
            )
        case _:
            pass
    text = rng.random() < 0.05
    return _ask_socket(server, rng.choice(["/ws", "/", "/vla-eval"]), "hello" if text else data)


def _ask_socket(server: Running, path: str, data: bytes | str) -> Outcome:
    try:
        with connect(f"ws://{server.host}:{server.port}{path}", compression=None, max_size=None, proxy=None) as link:
            if path != "/vla-eval":
                link.recv(timeout=10)
            link.send(data)
            answer = link.recv(timeout=10)
    except ConnectionClosed as closed:
        return Outcome(
            "close", closed.rcvd is not None and closed.rcvd.code in (1002, 1003, 1007, 1008, 1009), str(closed)
        )
    except InvalidStatus as refused:  # a handshake that came too slowly
        return Outcome("handshake", 400 <= refused.response.status_code < 500, str(refused))
    except InvalidMessage as refused:
        return Outcome("handshake", False, str(refused))
    if isinstance(answer, bytes):
        fields = msgpack.unpackb(answer)
        words = str(fields.get("payload", {}).get("error"))
        return Outcome("error message", fields.get("type") == "error" and not any(w in words for w in LEAK), words)
    return Outcome("text", not any(word in answer for word in LEAK), answer[:300])


def fuzz_frames(server: Running, rng: random.Random) -> Outcome:
    """WebSocket frames that break the protocol beneath the messages."""
    handshake = (
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    frames = [
        b"\xff\xff\xff\xff",
        b"\x82\x05hello",
        b"\x82\xff" + b"\x7f" * 12,
        b"\x83\x80\0\0\0\0",
        b"\xc2\x80\0\0\0\0",
        b"\x81\x82\0\0\0\0\xff\xff",
    ]
    with socket.create_connection((server.host, server.port), timeout=10) as link:
        link.sendall(handshake.encode())
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += link.recv(4096)
        link.sendall(rng.choice(frames))
        try:
            while part := link.recv(65536):
                seen = (seen + part)[-65536:]
        except ConnectionResetError:
            pass
        except TimeoutError:
            return Outcome("frame", False, "the connection stayed open")
    return Outcome("frame", not any(word.encode() in seen for word in LEAK), "")


def fuzz_half(server: Running, rng: random.Random) -> Outcome:
    """A connection that is cut in the middle, or half of it."""
    body = json.dumps(wrong_message(rng)).encode()
    request = b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    data = request[: rng.randrange(len(request))]
    if rng.random() < 0.5:
        return judge_http(raw(server, data, half_close=True))
    link = socket.create_connection((server.host, server.port), timeout=10)
    link.sendall(data)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset instead of a goodbye
    link.close()
    return Outcome("reset", True, "")


KINDS = (fuzz_json, fuzz_json, fuzz_image, fuzz_head, fuzz_socket, fuzz_socket, fuzz_frames, fuzz_half)


def malformed(server: Running, seed: int) -> Outcome:
    """Send the malformed request number `seed`."""
    return KINDS[seed % len(KINDS)](server, random.Random(seed))


def slow_loris(server: Running, seconds: float) -> list[str]:
    """Connections that send a byte at a time, in the head, the body and a frame: what became of each."""
    starts = (
        b"POST /act HTTP/1.1\r\nHo",
        b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
        b"",
    )
    links = [socket.create_connection((server.host, server.port), timeout=1) for _ in starts]
    for link, start in zip(links, starts, strict=True):
        link.sendall(start)
    outcomes = ["open"] * len(links)
    end = time.monotonic() + seconds
    while time.monotonic() < end and "open" in outcomes:
        for n, link in enumerate(links):
            if outcomes[n] == "open":
                outcomes[n] = _drip(link, n)
        time.sleep(0.1)
    for link in links:
        link.close()
    return outcomes


def _drip(link: socket.socket, n: int) -> str:
    link.settimeout(0.01)
    try:
        if n < 2:
            link.sendall(b"x")
        reply = link.recv(4096)
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"
    return reply[9:12].decode() or "closed"
