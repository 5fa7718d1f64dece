"""Tensors that are not in memory yet: where their bytes lie, or how to make them.

A checkpoint of any format is a dict of name -> `LazyTensor`. Loading maps them, conversion streams their bytes, the
doctor reads them piece by piece. Renaming is a dict comprehension, and changing a tensor is an assignment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from openvla.errors import CheckpointError

CHUNK_BYTES = 8 << 20
"""Bytes in memory at a time while a stored tensor is streamed; a multiple of every item size."""


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor's type and shape, and three ways to its values."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def mapped(self) -> Tensor:
        """The tensor, its pages read from disk when they are first touched; writing to it does not reach the file."""
        ...

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes in row-major order, a few MB at a time, each valid until the next one."""
        ...


@dataclass(eq=False)
class WeightFile:
    """A file of weights, mapped at most once."""

    path: Path

    @cached_property
    def storage(self) -> torch.UntypedStorage:
        """The whole file, copy-on-write."""
        mapped: Any = torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)
        return mapped


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file: `offset` in bytes, `strides` in items, or None for row-major order."""

    file: WeightFile
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def mapped(self) -> Tensor:
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        if self.offset % self.dtype.itemsize:
            return torch.frombuffer(bytearray(b"".join(self.chunks())), dtype=self.dtype).view(self.shape)
        return torch.empty(0, dtype=self.dtype).set_(
            self.file.storage, self.offset // self.dtype.itemsize, self.shape, self.strides or row_major(self.shape)
        )

    def chunks(self) -> Iterator[memoryview]:
        if self.strides not in (None, row_major(self.shape)):
            yield from tensor_chunks(self.mapped())
            return
        at, end = self.offset, self.offset + nbytes(self)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, end - at)))
        with self.file.path.open("rb", buffering=0) as file:
            while at < end:
                count = os.preadv(file.fileno(), [buffer[: end - at]], at)
                if not count:
                    raise CheckpointError(f"{self.file.path} became shorter while it was read; restore the file")
                yield buffer[:count]
                at += count


@dataclass(frozen=True, eq=False)
class MadeTensor:
    """A tensor computed when it is asked for, each time anew."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor] = field(repr=False)

    def mapped(self) -> Tensor:
        return self.make()

    def chunks(self) -> Iterator[memoryview]:
        yield from tensor_chunks(self.make())


def cast(tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """The same values in another type; `tensor` itself where it has that type."""
    if tensor.dtype == dtype:
        return tensor
    return MadeTensor(dtype, tensor.shape, lambda: tensor.mapped().to(dtype))


def nbytes(tensor: LazyTensor) -> int:
    """Size in bytes."""
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in items, of a tensor whose last index runs fastest."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides[: len(shape)])


def tensor_chunks(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor in memory, as one piece."""
    if tensor.numel():
        values: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield memoryview(values)
