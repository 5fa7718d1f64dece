"""One request from its bytes to an action, whatever protocol brought it: limits, queue, policy, safety, books.

Everything that can be refused without decoding an image is refused before.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from openvla.errors import InputError
from openvla.serve.audit import Audit
from openvla.serve.features.features import EncodedObservation, Packet
from openvla.serve.features.kept import Kept
from openvla.serve.guard.limits import Account, Limits, Memory
from openvla.serve.guard.refusals import UNAVAILABLE, Refusal, bad_request, internal
from openvla.serve.guard.safety import Flags, Guard
from openvla.serve.guard.security import Keys, RateLimit
from openvla.serve.metrics import Metrics
from openvla.serve.protocols.messages import Request, read_request
from openvla.serve.queue.lanes import Answer
from openvla.serve.queue.scheduler import Scheduler, expired
from openvla.serve.served import Served, describe
from openvla.serve.watch.live import Event, Live
from openvla.spec import Action

INLINE_BYTES = 1 << 18
"""Messages up to this size are decoded on the event loop; a thread costs more than they do."""

INLINE_PIXELS = 1 << 18
"""Likewise: a small file may hold a large image."""

GRACE_S = 0.05
LOGGED_CHARS = 200

log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Caller:
    """Who asks. address: host. lane: queue of its own where no robot is named. key: name of the key, or None."""

    protocol: str
    address: str
    lane: str
    key: str | None = None


@dataclass(frozen=True)
class Reply:
    """An action that may be executed. timing_ms: milliseconds in the server, by phase, with the policy's own phases."""

    action: Action
    flags: Flags
    timing_ms: dict[str, float]
    request_id: str


@dataclass
class Books:
    """What is known of a request so far, for counters and the audit. size: bytes of its message.

    account: the memory that it holds until it is answered.
    """

    caller: Caller
    account: Account
    size: int = 0
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    began: float = field(default_factory=time.perf_counter)
    request: Request | None = None
    reply: Reply | None = None


class Service:
    """Answers requests with a policy. All methods belong to one event loop."""

    def __init__(
        self,
        served: Served,
        scheduler: Scheduler,
        guard: Guard,
        *,
        limits: Limits | None = None,
        keys: Keys | None = None,
        rate: RateLimit | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.served = served
        self.scheduler = scheduler
        self.guard = guard
        self.limits = limits or Limits()
        self.keys = keys or Keys({})
        self.rate = rate or RateLimit(None)
        self.audit = audit
        self.memory = Memory(self.limits.pending_bytes)
        self.kept = Kept(served.cuts, self.limits.kept_bytes)
        self.live = Live()
        self.metrics = Metrics()
        self.sessions = 0
        self.unanswered = 0
        self._gauges()

    @property
    def lost_lines(self) -> int:
        """Audit lines that could not be written."""
        return self.audit.lost if self.audit else 0

    def metadata(self) -> dict[str, Any]:
        """What a client should know, JSON-ready."""
        return describe(self.served, self.guard.rules, self.scheduler.deadline_s)

    @contextmanager
    def request(self, caller: Caller) -> Generator[Books]:
        """Books for one request, written when the block ends. Whatever fails in the block leaves it as a Refusal."""
        with self.memory.account() as account:
            books = Books(caller, account)
            try:
                yield books
            except Refusal as refusal:
                self._refused(books, refusal)
                raise
            except InputError as error:
                refusal = bad_request(str(error))
                self._refused(books, refusal)
                raise refusal from None
            except Exception:
                log.exception("request %s failed", books.request_id)
                refusal = internal()
                self._refused(books, refusal)
                raise refusal from None
            if books.request is not None and books.reply is not None:
                self._answered(books, books.request, books.reply)

    async def answer(self, decode: Callable[[], object], books: Books) -> Reply:
        """The action for the message that `decode` makes, within the block of `request`.

        Raises Refusal and InputError, and whatever the policy raises.
        """
        self.unanswered += 1
        try:
            books.reply = await self._answer(decode, books)
        finally:
            self.unanswered -= 1
        return books.reply

    async def _answer(self, decode: Callable[[], object], books: Books) -> Reply:
        caller, arrived = books.caller, time.perf_counter()
        self.rate.spend(caller.key or caller.address)
        self.scheduler.check_room()
        with self.scheduler.coming():
            request = books.request = await self._read(decode, books.size)
            books.account.add(_unfolded_bytes(request))
            self.served.check_statistics(request.statistics)
            self.guard.check_age(request.captured_at)
            if request.features is not None:
                request = books.request = self._seen(request, request.features, caller)
            decoded = time.perf_counter()
            left = self._left(request.deadline_s, decoded - books.began, decoded - arrived)
            future = self.scheduler.submit(
                request.observation, request.robot or caller.lane, deadline_s=left, newest=request.newest
            )
        answer = await self._settled(future, left, self.scheduler.allowed(request.deadline_s))
        action = self.served.rescale(answer.action, request.statistics)
        action, flags = self.guard.apply(action, _robot(request, caller))
        now = time.perf_counter()
        timing_ms = {
            "decode": 1e3 * (decoded - books.began),
            "queue": 1e3 * answer.queued_s,
            "policy": 1e3 * answer.policy_s,
            "server": 1e3 * (now - books.began),
        }
        return Reply(action, flags, timing_ms, books.request_id)

    async def _read(self, decode: Callable[[], object], size: int) -> Request:
        await asyncio.sleep(0)  # whatever else has arrived is known of before this is read
        if size <= INLINE_BYTES:
            small = replace(self.limits, image_pixels=min(INLINE_PIXELS, self.limits.image_pixels))
            with suppress(Refusal):  # it is too large for here
                return read_request(decode(), small)
        return await asyncio.to_thread(lambda: read_request(decode(), self.limits))

    def _seen(self, request: Request, packet: Packet, caller: Caller) -> Request:
        """The request with whole features; those of a connection are kept for its next message."""
        features = self.kept.whole(packet, None if caller.protocol == "act" else caller.lane)
        shown = request.observation
        observation = EncodedObservation(
            shown.image, shown.instruction, proprio=shown.proprio, features=features, cut=packet.cut
        )
        return replace(request, observation=observation)

    def _left(self, asked_s: float | None, since_head: float, since_body: float) -> float:
        """Seconds until the deadline; Refusal (503) where it has passed.

        The asker's counts from the head of its request, the server's own from the end: a slow link is no overload.
        """
        left = self.scheduler.deadline_s - since_body
        if asked_s is not None:
            left = min(left, asked_s - since_head)
        if left <= 0:
            raise expired()
        return left

    async def _settled(self, future: asyncio.Future[Answer], left: float, allowed: float) -> Answer:
        """Wait for the action until the deadline, with a little grace for handing it over."""
        try:
            return await asyncio.wait_for(future, left + GRACE_S)
        except TimeoutError:
            sentence = f"the action took longer than the deadline of {allowed:.2g} s; try again later"
            raise Refusal(UNAVAILABLE, "deadline", sentence, 1.0) from None

    def _answered(self, books: Books, request: Request, reply: Reply) -> None:
        protocol = books.caller.protocol
        self.metrics.answered(protocol, {phase: value / 1e3 for phase, value in reply.timing_ms.items()}, reply.flags)
        timing_ms = {phase: round(value, 2) for phase, value in reply.timing_ms.items()}
        self._note(books, 200, flags=reply.flags.to_dict() if reply.flags else None, timing_ms=timing_ms)
        robot, observation = _robot(request, books.caller), request.observation
        self.live.publish(Event(robot, protocol, observation, reply.action, reply.flags, reply.timing_ms["server"]))

    def _refused(self, books: Books, refusal: Refusal) -> None:
        self.metrics.refused(books.caller.protocol, refusal.status, refusal.reason)
        self.live.refused += 1
        self._note(books, refusal.status, reason=refusal.reason, error=str(refusal)[:LOGGED_CHARS])

    def _note(self, books: Books, status: int, **more: Any) -> None:
        """Write the audit line."""
        if self.audit is None:
            return
        request, caller = books.request, books.caller
        entry: dict[str, Any] = {
            "time": time.time(),
            "request": books.request_id,
            "protocol": caller.protocol,
            "address": caller.address,
            "key": caller.key,
            "robot": request.robot if request else None,
            "instruction": request.observation.instruction[:LOGGED_CHARS] if request else None,
            "bytes": books.size,
            "status": status,
            "ms": round(1e3 * (time.perf_counter() - books.began), 2),
        }
        self.audit.write(entry | {name: value for name, value in more.items() if value is not None})

    def _gauges(self) -> None:
        gauge, scheduler = self.metrics.gauge, self.scheduler
        gauge("queue", "Requests that wait for the policy.", lambda: scheduler.waiting)
        gauge("in_progress", "Requests with the policy.", lambda: scheduler.in_progress)
        gauge("sessions", "Open WebSockets.", lambda: self.sessions)
        gauge("ready", "1 when actions are given.", lambda: scheduler.state == "ready")
        gauge("audit_lines_lost", "Audit lines that could not be written.", lambda: self.lost_lines)


def _robot(request: Request, caller: Caller) -> str:
    """Whose action this is: by its name, its WebSocket, or, for HTTP, whose connections come and go, its address."""
    return request.robot or (caller.address if caller.protocol == "act" else caller.lane)


def _unfolded_bytes(request: Request) -> int:
    """Memory of the decoded images."""
    observation = request.observation
    return observation.image.nbytes + sum(image.nbytes for image in observation.extra_images.values())
