"""WebSockets: openpi's protocol and vla-eval's, on one address.

openpi's client waits for the server's metadata before it says anything; vla-eval's says HELLO and takes the first
message for the answer. The greeting is both at once: metadata with the fields of a HELLO. After it, the form of each
message tells whose it is. At /vla-eval nothing is sent before the client's HELLO.

Messages may be sent without waiting for answers; the answers come in the order of the messages.

Source: packages openpi-client 0.1 and vla-eval 0.8.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, cast

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from openvla.errors import InputError
from openvla.serve.guard.access import admit, caller_of
from openvla.serve.guard.refusals import BAD_REQUEST, Refusal, overloaded
from openvla.serve.protocols import packing
from openvla.serve.protocols.act import refused
from openvla.serve.protocols.harness import Session, hello, is_harness
from openvla.serve.service import Caller, Reply, Service

PIPELINE = 8
"""Most messages of one connection that are worked on at once; further ones wait in the socket."""

UNSUPPORTED_DATA, INVALID_DATA = 1003, 1007


class Outgoing:
    """What goes back for one message: bytes, a text that says what is wrong, or nothing; and whether that ends it."""

    def __init__(self, content: bytes | str | None, close: int | None = None) -> None:
        self.content = content
        self.close = close


class Sessions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def openpi(self, websocket: WebSocket) -> None:
        """Greet, then answer either protocol."""
        await self._serve(websocket, greet=True)

    async def vla_eval(self, websocket: WebSocket) -> None:
        """Wait for the client's HELLO."""
        await self._serve(websocket, greet=False)

    async def _serve(self, websocket: WebSocket, *, greet: bool) -> None:
        service = self._service
        caller = await accept(websocket, service, "openpi" if greet else "vla-eval")
        if caller is None:
            return
        service.sessions += 1
        try:
            if greet:
                greeting = {**service.metadata(), **hello(service)}
                await websocket.send_bytes(packing.pack(greeting, "openpi"))
            await _converse(websocket, _Connection(service, caller, greeted=greet))
        except WebSocketDisconnect:
            pass  # it left while we spoke
        finally:
            service.sessions -= 1
            service.guard.forget(caller.lane)
            service.kept.forget(caller.lane)


async def accept(websocket: WebSocket, service: Service, protocol: str, *, keyed: bool = True) -> Caller | None:
    """Open the WebSocket for a caller who may, or deny it as HTTP would and return None.

    keyed: the handshake must carry a key, where keys are in use.
    """
    try:
        with service.request(caller_of(websocket, protocol)) as books:
            caller = admit(websocket, service, books.caller, keyed=keyed)
            if service.sessions >= service.limits.sessions:
                raise overloaded(f"{service.sessions} WebSockets are open already; try again later", 1.0)
    except Refusal as refusal:
        await deny(websocket, refused(refusal))
        return None
    await websocket.accept()
    return caller


async def deny(websocket: WebSocket, response: JSONResponse) -> None:
    """Outgoing the handshake with an HTTP error, or, where the server cannot, with a refusal to open."""
    try:
        await websocket.send_denial_response(response)
    except RuntimeError:
        await websocket.close(1008)


async def _converse(websocket: WebSocket, connection: _Connection) -> None:
    """Read and answer until either side ends it."""
    answers: asyncio.Queue[asyncio.Task[Outgoing]] = asyncio.Queue(PIPELINE)
    writer = asyncio.create_task(_write(websocket, answers))
    tasks: set[asyncio.Task[Outgoing]] = set()
    try:
        while not writer.done():
            receive = asyncio.ensure_future(websocket.receive())
            await asyncio.wait((receive, writer), return_when=asyncio.FIRST_COMPLETED)
            if not receive.done():
                receive.cancel()
                break
            message = receive.result()
            if message["type"] == "websocket.disconnect":
                break
            task = asyncio.create_task(connection.answer(message.get("bytes"), message.get("text")))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            put = asyncio.ensure_future(answers.put(task))
            await asyncio.wait((put, writer), return_when=asyncio.FIRST_COMPLETED)
            put.cancel()
    finally:
        for task in (writer, *tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await writer
        if websocket.application_state == WebSocketState.CONNECTED == websocket.client_state:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await websocket.close()


async def _write(websocket: WebSocket, answers: asyncio.Queue[asyncio.Task[Outgoing]]) -> None:
    """Send answers in the order of their messages, until one ends the conversation."""
    while True:
        answer = await (await answers.get())
        if isinstance(answer.content, bytes):
            await websocket.send_bytes(answer.content)
        elif answer.content is not None:
            await websocket.send_text(answer.content)
        if answer.close is not None:
            await websocket.close(answer.close)
            return


class _Connection:
    """One client's conversation; the protocol of each message is told by its form."""

    def __init__(self, service: Service, caller: Caller, *, greeted: bool) -> None:
        self._service = service
        self._caller = caller
        self._harness = Session(service, greeted=greeted)
        self._vla_eval = Caller("vla-eval", caller.address, caller.lane, caller.key)

    async def answer(self, data: bytes | None, text: str | None) -> Outgoing:
        """The answer to one WebSocket message. Never raises."""
        caller = self._caller
        try:
            if data is None:
                with self._service.request(caller) as books:
                    books.size = len(text or "")
                    raise Refusal(BAD_REQUEST, "protocol", "messages are msgpack maps in binary frames, not text")
            try:
                message = packing.unpack(data)
            except InputError as error:
                with self._service.request(caller) as books:
                    books.size = len(data)
                    raise Refusal(BAD_REQUEST, "protocol", str(error)) from error
            if is_harness(message):
                fields = cast("Mapping[Any, Any]", message)
                return Outgoing(await self._harness.handle(fields, self._vla_eval, len(data)))
            with self._service.request(caller) as books:
                books.size = len(data)
                books.account.add(books.size)
                reply = await self._service.answer(lambda: message, books)
            return Outgoing(packing.pack(_openpi_reply(reply), "openpi"))
        except Refusal as refusal:
            close = (UNSUPPORTED_DATA if data is None else INVALID_DATA) if refusal.reason == "protocol" else None
            return Outgoing(str(refusal), close)


def _openpi_reply(reply: Reply) -> dict[str, Any]:
    """Every array has the chunk first, since openpi's chunk broker cuts all of them along it."""
    action = reply.action
    content: dict[str, Any] = {
        "actions": action.values,
        "server_timing": {
            "infer_ms": reply.timing_ms["policy"],
            "queue_ms": reply.timing_ms["queue"],
            "decode_ms": reply.timing_ms["decode"],
            "total_ms": reply.timing_ms["server"],
        },
        "policy_timing": {f"{phase}_ms": float(value) for phase, value in action.timing_ms.items()},
        "flags": reply.flags.to_dict(),
        "request_id": reply.request_id,
    }
    optional = {"confidence": action.confidence, "tokens": action.tokens}
    return content | {name: values for name, values in optional.items() if values is not None}
