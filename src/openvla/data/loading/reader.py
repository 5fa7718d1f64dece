"""Byte ranges of many files through few descriptors: `pread`, so that threads share them without a lock on reading."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

from openvla.errors import DataError

OPEN_FILES = 128


class Files:
    """Descriptors of the files read last, at most `limit` of them beside those in use."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self._limit = limit
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return Files, (self._limit,)

    def __del__(self) -> None:
        for held in self._open.values():
            os.close(held[0])

    def read(self, path: str, offset: int, length: int) -> bytes:
        """The bytes offset ... offset + length of `path`. Raises DataError for a file that is missing or too short."""
        try:
            held = self._take(path)
            try:
                data = os.pread(held[0], length, offset)
                while len(data) < length:
                    more = os.pread(held[0], length - len(data), offset + len(data))
                    if not more:
                        raise DataError(
                            f"{path} ends before byte {offset + length}; it is shorter than when it was indexed, "
                            "fetch it again or index it again"
                        )
                    data += more
            finally:
                self._give_back(held)
        except OSError as error:
            raise DataError(f"cannot read {path} at byte {offset}: {error.strerror or error}") from error
        return data

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, list[int]] = OrderedDict()

    def _take(self, path: str) -> list[int]:
        """[descriptor, how many readers use it], opened where it was not."""
        with self._lock:
            held = self._open.get(path)
            if held is None:
                held = self._open[path] = [os.open(path, os.O_RDONLY), 0]
            else:
                self._open.move_to_end(path)
            held[1] += 1
            if len(self._open) > self._limit:
                self._close_one()
            return held

    def _close_one(self) -> None:
        idle = next((path for path, held in self._open.items() if not held[1]), None)
        if idle is not None:
            os.close(self._open.pop(idle)[0])

    def _give_back(self, held: list[int]) -> None:
        with self._lock:
            held[1] -= 1
