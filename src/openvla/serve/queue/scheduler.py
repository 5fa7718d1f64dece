"""A bounded queue in front of a stepper, and the one thread that owns the policy.

Askers live on an event loop and wait for a future; the thread admits waiting tickets whenever the stepper has room,
steps, and hands results back to the loop. A question that cannot be answered in time, judged by how long actions take
now, is refused when it is asked: under overload the queue stays short and those who are let in are served in time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager

from openvla.serve.guard.refusals import SUPERSEDED, UNAVAILABLE, Refusal, internal, not_ready, overloaded
from openvla.serve.queue.batching import Stepper
from openvla.serve.queue.lanes import Answer, Lanes, Ticket, settle
from openvla.serve.queue.pace import Pace
from openvla.serve.queue.warmup import warm_up
from openvla.spec import Action, Observation

LEAST_DEADLINE_S = 1.0
DEADLINE_IN_BATCHES = 4
BROKEN_AFTER = 3
"""Failures of the stepper itself in a row after which the server says that it is broken."""

COMPANY = 1.0
"""Of one action's time: the longest wait for requests that are being read, so that they run together."""

log = logging.getLogger("openvla.serve")


class Scheduler:
    """Lets observations wait, runs them together, and refuses what it cannot answer in time.

    make_stepper: called in the worker thread, again after the stepper itself failed.
    queue: most tickets that wait. deadline_s: longest wait for an answer where the asker names none; None measures a
        full batch at warm-up and allows four, at least one second.
    """

    def __init__(
        self, make_stepper: Callable[[], Stepper], *, queue: int = 64, deadline_s: float | None = None
    ) -> None:
        self.state = "warming up"
        self.deadline_s = deadline_s or LEAST_DEADLINE_S
        self.capacity = 1
        self.pace = Pace()
        self._measures_deadline = deadline_s is None
        self._make_stepper = make_stepper
        self._queue = queue
        self._lanes = Lanes()
        self._running: dict[Hashable, Ticket] = {}
        self._keys = itertools.count()
        self._failures = 0
        self._coming = 0
        self._waiting_since = 0.0
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
        self._warm_up: Observation | None = None

    def start(self, observation: Observation | None = None) -> None:
        """Start the worker thread; it is ready once it has warmed up on `observation`."""
        self._warm_up = observation
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._lanes)

    @property
    def in_progress(self) -> int:
        """Tickets with the policy."""
        return len(self._running)

    def check_room(self, deadline_s: float | None = None) -> None:
        """Raise Refusal (503) unless a question asked now would be answered in time."""
        if self.state != "ready":
            raise not_ready(self.state)
        queued, running = self.waiting, self.in_progress
        if not queued and not running:
            return  # an idle server always tries, or one slow answer would lock it for ever
        expected = self.pace.wait(queued, running, self.capacity)
        if queued >= self._queue:
            raise overloaded(f"the server is overloaded: {queued} requests wait already; try again later", expected)
        allowed = self.allowed(deadline_s)
        if expected > allowed:
            raise overloaded(
                f"the server is overloaded: an action would take about {expected:.2g} s, longer than the deadline of "
                f"{allowed:.2g} s; try again later",
                expected - allowed,
            )

    def allowed(self, deadline_s: float | None) -> float:
        """The asker's deadline, never beyond the server's own, in seconds from now."""
        return self.deadline_s if deadline_s is None else min(deadline_s, self.deadline_s)

    @contextmanager
    def coming(self) -> Generator[None]:
        """While a message is being read that will be submitted in the block: others may wait for it, for a moment."""
        self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1
                if not self._coming:
                    self._change.notify()

    def submit(
        self, observation: Observation, lane: str, *, deadline_s: float | None = None, newest: bool = False
    ) -> asyncio.Future[Answer]:
        """Queue one observation; the future, of the running loop, ends with an Answer or a Refusal.

        newest: refuse what this lane still has waiting. Raises Refusal (503) at once where there is no room.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        with self._change:
            replaced = self._lanes.clear(lane) if newest else []
            try:
                self.check_room(deadline_s)
            except Refusal:
                for ticket in replaced:
                    self._lanes.push(ticket)
                raise
            ticket = Ticket(observation, lane, now + self.allowed(deadline_s), now, loop.create_future())
            self._lanes.push(ticket)
            if self.waiting == 1:
                self._waiting_since = now
            if self.waiting in (1, self.capacity) or not self._coming:
                self._change.notify()
        sentence = "a newer observation of the same robot came in; act on the answer to that one"
        settle([(each, Refusal(SUPERSEDED, "superseded", sentence)) for each in replaced])
        return ticket.answer

    def stop_intake(self) -> None:
        """Refuse from now on; what was accepted is finished."""
        with self._change:
            self.state = "shutting down"
            self._change.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait, after `stop_intake`, until everything accepted is answered; False where time ran out."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        stepper = self._prepare()
        while stepper is not None and self._admit(stepper):
            if not self._running:
                continue  # whoever waited has left, or came too late
            try:
                finished = stepper.step()
                self._failures = 0
            except Exception:
                log.exception("the policy failed; its work in progress is lost")
                finished = [(key, internal()) for key in self._running]
                stepper = self._replace()
            self._hand_back(finished)
        with self._change:
            left = [*self._running.values(), *self._lanes.drain()]
            self._running.clear()
        settle([(ticket, not_ready(self.state)) for ticket in left])

    def _prepare(self) -> Stepper | None:
        """A stepper that has warmed up, or None where that failed."""
        try:
            stepper = self._make_stepper()
            self.capacity = stepper.capacity
            if self._warm_up is not None:
                warm_up(stepper, self._warm_up, self.pace)
                if self._measures_deadline:
                    self.deadline_s = max(LEAST_DEADLINE_S, DEADLINE_IN_BATCHES * self.pace.seconds(self.capacity))
        except Exception:
            log.exception("the policy failed at warm-up")
            self.state = "broken"
            return None
        with self._change:
            if self.state == "warming up":
                self.state = "ready"
        return stepper

    def _replace(self) -> Stepper | None:
        self._failures += 1
        try:
            if self._failures < BROKEN_AFTER:
                return self._make_stepper()
        except Exception:
            log.exception("the policy cannot be set up again")
        self.state = "broken"
        return None

    def _admit(self, stepper: Stepper) -> bool:
        """Wait for work and fill the stepper; False once intake has stopped and nothing is left."""
        late: list[Ticket] = []
        with self._change:
            while not self._lanes and not self._running:
                if self.state != "ready":
                    return False
                self._change.wait()
            room = self._room(stepper)
            while self._lanes and room:
                together = self.in_progress + min(self.waiting, room)
                ticket = self._lanes.pop()
                now = time.monotonic()
                if ticket.answer.cancelled():
                    continue
                if self._too_late(ticket, now, together):
                    late.append(ticket)
                    continue
                room -= 1
                ticket.admitted = now
                key = next(self._keys)
                self._running[key] = ticket
                stepper.admit(key, ticket.observation)
        settle([(ticket, expired()) for ticket in late])
        return True

    def _room(self, stepper: Stepper) -> int:
        """How many to admit now. While messages are being read, those that wait do so a moment longer."""
        until = self._waiting_since + COMPANY * self.pace.seconds(1)
        while (room := stepper.room(self.waiting)) > self.waiting and self._coming:
            left = until - time.monotonic()
            if left <= 0:
                break
            if self._running:
                return 0
            self._change.wait(left)
        return room

    def _too_late(self, ticket: Ticket, now: float, together: int) -> bool:
        """Whether the action would come after the deadline, which is known before it is computed.

        Who has waited for less than half of the time is tried all the same: one slow answer must lock no idle server.
        """
        waited, allowed = now - ticket.submitted, ticket.deadline - ticket.submitted
        return waited + self.pace.seconds(together) > allowed and waited > 0.5 * allowed

    def _hand_back(self, finished: Sequence[tuple[Hashable, Action | Exception]]) -> None:
        now = time.monotonic()
        results: list[tuple[Ticket, Answer | Exception]] = []
        with self._change:
            together = len(self._running)
            for key, outcome in finished:
                ticket = self._running.pop(key, None)
                if ticket is None:
                    continue
                took = now - ticket.admitted
                if isinstance(outcome, Exception):
                    results.append((ticket, outcome))
                else:
                    self.pace.learn(together, took)
                    results.append((ticket, Answer(outcome, ticket.admitted - ticket.submitted, took)))
        settle(results)


def expired() -> Refusal:
    """What is said to whom an action would come too late."""
    return Refusal(
        UNAVAILABLE, "deadline", "the request waited too long to be answered within its deadline; try again later", 1.0
    )
