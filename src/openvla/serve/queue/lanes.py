"""The waiting room: one lane per client, served in turn, so that whoever asks more waits longer."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from openvla.spec import Action, Observation

log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Answer:
    """An action and how it came about: seconds in the waiting room, and seconds with the policy."""

    action: Action
    queued_s: float
    policy_s: float


@dataclass(eq=False)
class Ticket:
    """One question that waits. Times are of `time.monotonic`.

    answer: where the asker waits, on its own event loop; a cancelled one is skipped.
    """

    observation: Observation
    lane: str
    deadline: float
    submitted: float
    answer: asyncio.Future[Answer] = field(repr=False)
    admitted: float = 0.0


class Lanes:
    """Tickets by lane; not safe across threads on its own."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, ticket: Ticket) -> None:
        """Append to its lane; a new lane is served after all others."""
        self._lanes.setdefault(ticket.lane, deque()).append(ticket)
        self._count += 1

    def pop(self) -> Ticket:
        """The oldest ticket of the lane whose turn it is; that lane goes to the end. KeyError where nobody waits."""
        lane, tickets = self._lanes.popitem(last=False)
        ticket = tickets.popleft()
        if tickets:
            self._lanes[lane] = tickets
        self._count -= 1
        return ticket

    def clear(self, lane: str) -> list[Ticket]:
        """Take out all tickets of one lane."""
        tickets = list(self._lanes.pop(lane, ()))
        self._count -= len(tickets)
        return tickets

    def drain(self) -> list[Ticket]:
        """Take out everything."""
        tickets = [ticket for lane in self._lanes.values() for ticket in lane]
        self._lanes.clear()
        self._count = 0
        return tickets


def settle(results: Sequence[tuple[Ticket, Answer | Exception]]) -> None:
    """Hand results to the event loops that wait for them; from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Answer | Exception]]] = {}
    for ticket, result in results:
        by_loop.setdefault(ticket.answer.get_loop(), []).append((ticket, result))
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_here, mine)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("%d answers came after the server had gone", len(mine))


def _settle_here(results: Sequence[tuple[Ticket, Answer | Exception]]) -> None:
    for ticket, result in results:
        if ticket.answer.done():
            continue
        if isinstance(result, Answer):
            ticket.answer.set_result(result)
        else:
            ticket.answer.set_exception(result)
