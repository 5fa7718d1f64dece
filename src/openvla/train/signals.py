"""A request to end: SIGTERM, which schedulers send before they take a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Termination:
    """requested: whether the signal came."""

    requested = False

    def request(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the training looks at it after every step."""
        del number, frame
        self.requested = True


@contextmanager
def termination() -> Generator[Termination]:
    """Note SIGTERM instead of dying of it, for as long as the block lasts. Only the main thread can."""
    asked = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, asked.request)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
