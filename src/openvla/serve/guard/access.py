"""Who is at the other end of a connection, and whether they may ask."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import HTTPConnection

from openvla.serve.guard.security import check_origin, is_loopback
from openvla.serve.service import Caller, Service


def caller_of(connection: HTTPConnection, protocol: str) -> Caller:
    """The other end, not yet admitted."""
    client = connection.client
    host, port = (client.host, client.port) if client else ("unknown", 0)
    return Caller(protocol, host, f"{host}:{port}")


def admit(connection: HTTPConnection, service: Service, caller: Caller, *, keyed: bool = True) -> Caller:
    """`caller` with the name of its key. Raises Refusal: 403 for a foreign page, and, if `keyed`, 401 without a key."""
    _check_page(connection, service)
    if not keyed:
        return caller
    return replace(caller, key=service.keys.name_of(connection.headers.get("authorization")))


def _check_page(connection: HTTPConnection, service: Service) -> None:
    """Raise Refusal (403) where a page of another site asks through a browser."""
    headers, server = connection.headers, connection.scope.get("server")
    if "origin" in headers:
        local = not service.keys.digests and bool(server) and is_loopback(str(server[0]))
        check_origin(headers["origin"], headers.get("host"), local=local)
