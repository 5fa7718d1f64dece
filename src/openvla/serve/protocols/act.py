"""`POST /act`: the protocol of the published server, with real status codes.

    {"image": array, "instruction": "...", "unnorm_key": "..."}        -> array, float64 (dim,) or (chunk, dim)
    {"encoded": the same as JSON within a string}                      -> JSON of the array within a string

A client that accepts `application/vnd.openvla+json` gets an object instead: values, tokens, confidence, timing, flags.
Others find the flags in headers. Errors are {"error": sentence} with a status of 400 or above, where the published
server says "error" with status 200.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from openvla.errors import InputError
from openvla.serve.guard.access import admit, caller_of
from openvla.serve.guard.refusals import FORBIDDEN, TIMEOUT, TOO_LARGE, UNAUTHORIZED, UNSUPPORTED, Refusal
from openvla.serve.protocols import wire
from openvla.serve.protocols.bodies import read_body
from openvla.serve.service import Reply, Service

DETAILED = "application/vnd.openvla+json"
JSON_TYPES = ("application/json", DETAILED)
MOST_COMMAS = 1_000_000
"""Of one JSON body. Arrays travel in base64, so a body of more is a trap for the parser."""


class Act:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def respond(self, request: Request) -> Response:
        """Answer one request; every failure is a JSON object with "error"."""
        service = self._service
        try:
            with service.request(caller_of(request, "act")) as books:
                books.caller = admit(request, service, books.caller)
                check_type(request.headers.get("content-type"))
                message = Message(await read_body(request, service.limits, books.account))
                books.size = len(message.body)
                reply = await service.answer(message.decode, books)
        except Refusal as refusal:
            return refused(refusal)
        return answered(reply, message.encoded, DETAILED in request.headers.get("accept", ""))


class Message:
    """A body, and, once decoded, whether it was JSON within JSON."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.encoded = False

    def decode(self) -> object:
        """The message. Raises InputError for anything that is none."""
        message = _loads(self.body)
        if not isinstance(message, Mapping):
            return message
        fields = cast("Mapping[str, Any]", message)
        if set(fields) != {"encoded"}:
            return fields
        if not isinstance(fields["encoded"], str):
            raise InputError("'encoded' is not a string; send the message as JSON within it")
        self.encoded = True
        return _loads(fields["encoded"].encode("utf-8", "replace"))


def check_type(content_type: str | None) -> None:
    """Raise Refusal (415) for a body that says it is something else than JSON."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise Refusal(UNSUPPORTED, "content_type", f"bodies of type {kind[:64]!r} are not taken; send application/json")


def answered(reply: Reply, encoded: bool, detailed: bool) -> Response:
    """The reply as HTTP: an array, the array as JSON within a string, or an object with the details."""
    headers = {"X-Request-Id": reply.request_id, "Server-Timing": _server_timing(reply.timing_ms)}
    if reply.flags:
        headers["Openvla-Flags"] = "; ".join(_flag_words(reply.flags.to_dict()))
    if detailed:
        return Response(_details(reply), media_type=DETAILED, headers=headers)
    values = reply.action.values
    body = wire.dumps(values[0] if len(values) == 1 else values)
    return Response(json.dumps(body.decode()) if encoded else body, media_type="application/json", headers=headers)


def refused(refusal: Refusal) -> JSONResponse:
    """The refusal as HTTP. The connection is closed where the body may not have been read to its end."""
    document: dict[str, Any] = {"error": str(refusal), "reason": refusal.reason}
    headers: dict[str, str] = {}
    if refusal.status in (UNAUTHORIZED, FORBIDDEN, TIMEOUT, TOO_LARGE, UNSUPPORTED) or refusal.reason == "memory":
        headers["Connection"] = "close"
    if refusal.retry_after_s is not None:
        document["retry_after_s"] = round(refusal.retry_after_s, 3)
        headers["Retry-After"] = str(math.ceil(refusal.retry_after_s))
    if refusal.status == UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(document, refusal.status, headers)


def _loads(body: bytes) -> Any:
    if body.count(b",") > MOST_COMMAS:
        raise InputError("the body lists too many values; send images as JPEG, PNG or json_numpy arrays")
    return wire.loads(body)


def _details(reply: Reply) -> bytes:
    action = reply.action
    document = {
        "values": action.values.tolist(),
        "tokens": None if action.tokens is None else action.tokens.tolist(),
        "confidence": None if action.confidence is None else action.confidence.tolist(),
        "timing_ms": {**action.timing_ms, **{f"server/{phase}": value for phase, value in reply.timing_ms.items()}},
        "flags": reply.flags.to_dict(),
        "request_id": reply.request_id,
    }
    return json.dumps(document).encode()


def _flag_words(flags: Mapping[str, Any]) -> list[str]:
    """The flags that apply, e.g. "clipped=x y" and "held=low_confidence"."""
    return [f"{name}={value if isinstance(value, str) else ' '.join(value)}" for name, value in flags.items() if value]


def _server_timing(timing_ms: Mapping[str, float]) -> str:
    return ", ".join(f"{phase};dur={value:.2f}" for phase, value in timing_ms.items())
