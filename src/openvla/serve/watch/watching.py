"""The WebSocket behind the page: everything that happens goes out, what the viewer asks of the demo comes in.

A browser cannot send headers with a WebSocket, so where keys are in use the first message is {"key": "..."}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, cast

from starlette.websockets import WebSocket, WebSocketDisconnect

from openvla.errors import OpenVLAError
from openvla.serve.guard.refusals import Refusal, bad_request
from openvla.serve.protocols.sessions import accept
from openvla.serve.service import Caller, Service
from openvla.serve.watch.demo import Demo

KEY_WAIT_S = 10.0
TOTALS_S = 0.5
POLICY_VIOLATION = 1008


class Watching:
    """The endpoint."""

    def __init__(self, service: Service, demo: Demo | None) -> None:
        self._service = service
        self._demo = demo

    async def serve(self, websocket: WebSocket) -> None:
        """Show one viewer everything until they leave."""
        service = self._service
        caller = await accept(websocket, service, "page", keyed=False)
        if caller is None:
            return
        service.sessions += 1
        try:
            if await self._admitted(websocket, caller):
                await self._show(websocket)
        except WebSocketDisconnect:
            pass
        finally:
            service.sessions -= 1

    async def _admitted(self, websocket: WebSocket, caller: Caller) -> bool:
        """Whether the first message holds a key, where one is needed; else the viewer is told and sent away."""
        if not self._service.keys.digests:
            return True
        try:
            with self._service.request(caller):
                message = await asyncio.wait_for(_receive(websocket), KEY_WAIT_S)
                self._service.keys.name_of(f"Bearer {message.get('key')}")
        except (Refusal, TimeoutError) as error:
            await websocket.send_json({"kind": "refused", "error": str(error) or "no key came"})
            await websocket.close(POLICY_VIOLATION)
            return False
        return True

    async def _show(self, websocket: WebSocket) -> None:
        live, demo = self._service.live, self._demo
        scenes = None if demo is None else demo.scenes()
        await websocket.send_json({"kind": "hello", "metadata": self._service.metadata(), "demo": scenes})
        with live.watch() as queue:
            tasks = [
                asyncio.create_task(task)
                for task in (self._send(websocket, queue), self._count(queue), self._obey(websocket, queue))
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                        await task

    async def _send(self, websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        while True:
            await websocket.send_text(await queue.get())

    async def _count(self, queue: asyncio.Queue[str]) -> None:
        """Put the totals into the viewer's queue at a steady pace."""
        scheduler = self._service.scheduler
        while True:
            totals = self._service.live.totals()
            totals |= {"waiting": scheduler.waiting, "in_progress": scheduler.in_progress, "state": scheduler.state}
            totals |= {} if self._demo is None else {"demo": self._demo.status()}
            if not queue.full():
                queue.put_nowait(json.dumps(totals))
            await asyncio.sleep(TOTALS_S)

    async def _obey(self, websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        """Do what the viewer asks of the demo; what is wrong is said to this viewer alone."""
        while True:
            try:
                command = await _receive(websocket)
                if self._demo is None:
                    raise bad_request("this server runs no demo; start it with --demo metaworld")
                self._demo.command(command)
            except OpenVLAError as error:
                if not queue.full():
                    queue.put_nowait(json.dumps({"kind": "refused", "error": str(error)}))


async def _receive(websocket: WebSocket) -> dict[str, Any]:
    """The next message, a JSON object. Raises Refusal for anything else."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    try:
        document = json.loads(message.get("text") or "")
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise bad_request("messages are JSON objects in text frames")
    return cast("dict[str, Any]", document)
