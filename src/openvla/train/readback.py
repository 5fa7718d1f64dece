"""Numbers of each step on their way from the device to the host, which does not wait for a GPU.

On a GPU the numbers of a step are read after the next one has been given to it, when they have long arrived. A step
that must not happen is therefore stopped on the device itself: its flag tells the optimiser to change nothing, then and
ever after, until the host has read why.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Readback:
    """Vectors of numbers, one a step, first in, first out."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.late = int(self._cuda)
        """Steps by which a report is read late."""
        self.stopped = torch.zeros((), device=device)
        """1.0 from the first report on that holds NaN or infinity."""
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def put(self, step: int, numbers: Tensor) -> list[tuple[int, Tensor]]:
        """Send what `step` measured; returns the reports that are due, with their steps, on the CPU."""
        if self.late:
            self.stopped = torch.maximum(self.stopped, (~numbers.isfinite()).any().float())
        event = None
        if self._cuda:
            host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            numbers = host.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((step, numbers, event))
        return self._taken(self.late)

    def rest(self) -> list[tuple[int, Tensor]]:
        """The reports that have not been read, waiting for the last."""
        return self._taken(0)

    def _taken(self, left: int) -> list[tuple[int, Tensor]]:
        found: list[tuple[int, Tensor]] = []
        while len(self._waiting) > left:
            step, numbers, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            found.append((step, numbers))
        return found
