"""Batches made ahead of their use, by threads or by processes, and handed over in order.

Threads are the default: decoding and resizing release the interpreter, so two threads give 1.8 times one, and share
one index. Processes are for many cores, where what the interpreter does for each frame (some 0.1 ms) adds up; they
never load torch. What is in a batch depends on its step alone, so neither kind nor number of workers changes a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from openvla.data.loading.batches import Batch, Batches
from openvla.data.loading.workers import processes
from openvla.errors import DataError, InputError

Made = tuple[Batch, list[DataError]]

AHEAD = 2
"""Batches that each worker is ahead of the one in use."""


def load(
    batches: Batches, steps: Iterable[int], *, workers: int = 1, use_processes: bool = False, ahead: int = AHEAD
) -> Iterator[Batch]:
    """The batches of `steps`, in order, made by `workers` threads or processes while the ones before are used.

    At most `workers * ahead` batches wait. Frames that are skipped are reported to the `bad` of `batches`.
    Raises DataError for frames that cannot be read and for a process that dies, InputError for counts below 1.
    """
    if workers < 1 or ahead < 1:
        raise InputError(f"{workers} workers that are {ahead} batches ahead cannot load anything; give numbers from 1")
    pool = processes(workers, _know, (batches,)) if use_processes else ThreadPoolExecutor(workers, "openvla-data")
    make = _make_here if use_processes else batches.make
    seen: set[str] = set()
    with pool as executor:
        try:
            for batch, skipped in _ahead(executor, make, steps, workers * ahead):
                for error in skipped:
                    if str(error) not in seen:
                        seen.add(str(error))
                        batches.bad.report(error)
                yield batch
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _ahead(executor: Executor, make: Callable[[int], Made], steps: Iterable[int], depth: int) -> Iterator[Made]:
    waiting: deque[Any] = deque()
    for step in steps:
        waiting.append(executor.submit(make, step))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_known: list[Batches] = []


def _know(batches: Batches) -> None:
    """In a worker process: keep the batches, whose index files it opens itself."""
    _known[:] = [batches]


def _make_here(step: int) -> Made:
    return _known[0].make(step)
