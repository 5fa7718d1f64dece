"""What to do with an episode or record that cannot be used: stop at once, or skip, count, log and list.

One `BadData` goes through one reading: readers hand it each failure, and whoever started the reading tells the user
at the end what was left out. Stopping is the default: a data set that is silently smaller trains a silently worse
policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from openvla.errors import DataError, UsageError

T = TypeVar("T")
MODES = ("raise", "skip")
SHOWN = 20

log = logging.getLogger(__name__)


@dataclass
class BadData:
    """The policy for bad data and the account of it.

    mode: "raise" or "skip". skipped: one sentence for each thing left out, in the order of reading.
    quiet: do not log, for data that are read a second time.
    Raises UsageError for another mode.
    """

    mode: str = "raise"
    skipped: list[str] = field(default_factory=list[str])
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"bad data can be handled by {' or '.join(MODES)}, not by {self.mode!r}")

    def report(self, error: DataError) -> None:
        """Raise `error`, or note and log it where bad data is skipped."""
        if self.mode == "raise":
            raise error
        self.skipped.append(str(error))
        if not self.quiet:
            log.warning("skipped: %s", error)

    def good(self, makers: Iterable[Callable[[], T]]) -> Iterator[T]:
        """What the makers return, without those that raise DataError; these are reported."""
        for make in makers:
            try:
                made = make()
            except DataError as error:
                self.report(error)
            else:
                yield made

    def summary(self) -> str:
        """What was left out, in lines for people; empty where nothing was."""
        if not self.skipped:
            return ""
        more = [f"... and {len(self.skipped) - SHOWN} more"] if len(self.skipped) > SHOWN else []
        return "\n".join([f"skipped {len(self.skipped)}:", *self.skipped[:SHOWN], *more])
