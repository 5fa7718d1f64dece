"""Worker processes that end with the process that started them, however that ends, and that never load torch."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from openvla.errors import DataError, InputError
from openvla.sim.workers import Inline, one_thread

LOOK_S = 0.5
"""Seconds between looks for the parent process."""


@contextmanager
def processes(
    count: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Generator[Executor]:
    """`count` spawned processes with one numerical thread each, or this process for one; exit drops what has not begun.

    Each process first calls `initializer(*initargs)`. Raises InputError for a count below 1, and DataError where a
    worker dies (killed, out of memory).
    """
    if count < 1:
        raise InputError(f"{count} workers cannot read anything; give a number from 1")
    if count == 1:
        if initializer is not None:
            initializer(*initargs)
        yield Inline()
        return
    spawn = multiprocessing.get_context("spawn")
    begin = (os.getpid(), initializer, initargs)
    with one_thread(), ProcessPoolExecutor(count, spawn, _begin, begin) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise DataError(
                "a data worker died before it could answer (killed, out of memory, or started by a script without "
                "`if __name__ == '__main__':`); use fewer workers, or one to see its own error"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(parent: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _leave_with(parent: int) -> None:
    """A killed parent cannot stop its workers, so they look for it."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
