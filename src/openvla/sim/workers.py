"""Episodes in worker processes, or in this one: the same calls, the same results, the same errors.

Workers are spawned, not forked: OpenGL contexts and thread pools do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from openvla.errors import InputError, SimulatorError

J = TypeVar("J")
T = TypeVar("T")
P = ParamSpec("P")

THREADS = "OMP_NUM_THREADS"


class Inline(Executor):
    """Runs every call at once, in this process; an exception is raised, not kept."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def each(pool: Executor, function: Callable[[J], T], jobs: Iterable[J]) -> Iterator[T]:
    """`function` of every job, in order: ahead of the caller in worker processes, one by one in this process."""
    return map(function, jobs) if isinstance(pool, Inline) else pool.map(function, jobs)


@contextmanager
def executor(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Generator[Executor]:
    """`workers` processes with one numerical thread each, or this process for one; drops unfinished calls at exit.

    Each process first calls `initializer(*initargs)`. A worker that dies (killed, out of memory) raises SimulatorError
    instead of leaving the caller waiting.
    """
    if workers < 1:
        raise InputError(f"{workers} workers cannot run anything; give a number from 1")
    if workers == 1:
        if initializer is not None:
            initializer(*initargs)
        yield Inline()
        return
    spawn = multiprocessing.get_context("spawn")
    with one_thread(), ProcessPoolExecutor(workers, spawn, initializer, initargs) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise SimulatorError(
                "a worker process died before it could answer (killed, out of memory, or started by a script without "
                "`if __name__ == '__main__':`); use fewer workers, or workers=1 to see its own error"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def one_thread() -> Generator[None]:
    """Processes started meanwhile use one numerical thread: the libraries read this variable when imported."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[THREADS]
        if before is not None:
            os.environ[THREADS] = before
