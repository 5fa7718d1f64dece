"""Functions of fixed shapes that a GPU replays as one launch; elsewhere they are just called.

A graph is captured once per set of static numbers and input shapes. It reads its inputs from buffers of its own and
everything else where it lay at capture, so what it works on beside its inputs must be buffers that stay in place.
Capture runs the function a few times more, which must not change what it gives: all it may write, beside its value, are
places that its inputs name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 2
"""Calls before a capture, in which libraries allocate their workspaces."""


@dataclass
class Captured:
    """A graph with the buffers it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run on other inputs of the same shapes; the outputs are overwritten by the next replay."""
        for buffer, given in zip(self.inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


class Graphed:
    """`function(*static, *tensors) -> tensors`, where `static` are numbers that shapes depend on."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._captured: dict[Hashable, Captured] = {}

    def __call__(self, *arguments: int | Tensor) -> tuple[Tensor, ...]:
        """The function's value for these arguments."""
        if self._device.type != "cuda":
            return self._function(*arguments)
        static = tuple(each for each in arguments if isinstance(each, int))
        tensors = tuple(each for each in arguments if isinstance(each, Tensor))
        key = (static, tuple((each.shape, each.dtype) for each in tensors))
        if key not in self._captured:
            self._captured[key] = self._capture(static, tensors)
        return self._captured[key].replay(tensors)

    def _capture(self, static: tuple[int, ...], tensors: tuple[Tensor, ...]) -> Captured:
        inputs = tuple(each.clone() for each in tensors)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._function(*static, *inputs)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*static, *inputs)
        return Captured(graph, inputs, outputs)
