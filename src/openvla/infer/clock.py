"""Seconds by phase, without making the host wait for the device before the end."""

from __future__ import annotations

import time
from typing import Any

import torch


class Clock:
    """Laps are marks in the device's queue (CUDA events), or the host's time where there is no queue."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks = [("", self._now())]

    def lap(self, phase: str) -> None:
        """Book the time since the last lap on `phase`."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase, in order; waits until the last one is over."""
        booked: dict[str, float] = {}
        if self._cuda:
            self._marks[-1][1].synchronize()
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            spent = start.elapsed_time(end) / 1000 if self._cuda else end - start
            booked[phase] = booked.get(phase, 0.0) + spent
        return booked

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
