"""Reading the body of a request: no more of it, and no longer, than the limits allow."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from openvla.serve.guard.limits import Account, Limits
from openvla.serve.guard.refusals import TIMEOUT, UNSUPPORTED, Refusal, bad_request, too_large

DISCARD_S = 1.0


async def read_body(request: Request, limits: Limits, account: Account) -> bytes:
    """The whole body.

    Raises Refusal: 415 for a compressed one, 413 for one that is or says it is too large, 408 for one that takes too
    long, 503 where all bodies together are too many.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal(
            UNSUPPORTED, "encoding", f"bodies of Content-Encoding {encoding[:32]!r} are not taken; send it plain"
        )
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise bad_request(f"the Content-Length is {length[:32]!r}, not a number")
    if int(length) > limits.request_bytes:
        await _discard(request, limits)
        raise too_large("the body", int(length), limits.request_bytes, "bytes")
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                account.add(len(chunk))
                if account.held > limits.request_bytes:
                    chunks.clear()
                    await _discard(request, limits)
                    raise too_large("the body", account.held, limits.request_bytes, "bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(
            TIMEOUT, "slow", f"the body did not arrive within {limits.body_s:g} s; send it faster or smaller"
        ) from None
    except ClientDisconnect:
        raise bad_request("the client left before its body was complete") from None
    return b"".join(chunks)


async def _discard(request: Request, limits: Limits) -> None:
    """Read on for a moment and forget it: a client that is still sending would not see the answer."""
    left = limits.request_bytes
    try:
        async with asyncio.timeout(DISCARD_S):
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):
        return
