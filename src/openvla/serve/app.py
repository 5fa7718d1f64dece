"""The routes of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import metadata, resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from openvla.serve.guard.access import admit, caller_of
from openvla.serve.guard.refusals import Refusal
from openvla.serve.protocols.act import Act, refused
from openvla.serve.protocols.openapi import document
from openvla.serve.protocols.sessions import Sessions
from openvla.serve.service import Service
from openvla.serve.watch.demo import Demo
from openvla.serve.watch.watching import Watching

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(service: Service, demo: Demo | None = None) -> Starlette:
    """The ASGI application over `service`."""
    act, sessions, watching = Act(service), Sessions(service), Watching(service, demo)
    api = document(metadata.version("openvla"), bool(service.keys.digests))

    async def health(_: Request) -> Response:
        state = service.scheduler.state
        return JSONResponse({"status": "ok" if state == "ready" else state}, 200 if state == "ready" else 503)

    async def described(_: Request) -> Response:
        return JSONResponse(service.metadata())

    async def metrics(_: Request) -> Response:
        text, media_type = service.metrics.text()
        return Response(text, headers={"Content-Type": media_type})

    async def openapi(_: Request) -> Response:
        return JSONResponse(api)

    return Starlette(
        routes=[
            Route("/act", act.respond, methods=["POST"]),
            WebSocketRoute("/ws", sessions.openpi),
            WebSocketRoute("/", sessions.openpi),
            WebSocketRoute("/vla-eval", sessions.vla_eval),
            WebSocketRoute("/live", watching.serve),
            *(Route(path, health) for path in ("/healthz", "/health")),
            Route("/metadata", _guarded(described, service)),
            Route("/metrics", _guarded(metrics, service)),
            Route("/openapi.json", openapi),
            *(Route(path, _page(name, media_type)) for path, (name, media_type) in PAGE.items()),
        ],
        exception_handlers={HTTPException: _http_error},
    )


def _guarded(endpoint: Endpoint, service: Service) -> Endpoint:
    """`endpoint` for those with a key."""

    async def checked(request: Request) -> Response:
        try:
            admit(request, service, caller_of(request, "http"))
        except Refusal as refusal:
            return refused(refusal)
        return await endpoint(request)

    return checked


def _page(name: str, media_type: str) -> Endpoint:
    """A file of the page, read once; no path of the network ever names a file."""
    content = (resources.files("openvla.serve") / "page" / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send


async def _http_error(_: Request, error: Exception) -> Response:
    """What the router refuses, in the words of every other refusal."""
    assert isinstance(error, HTTPException)
    sentence = {404: "there is nothing at this path; see /openapi.json", 405: "this path does not take that method"}
    return JSONResponse(
        {"error": sentence.get(error.status_code, error.detail), "reason": "http"}, error.status_code, error.headers
    )
