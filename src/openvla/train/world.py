"""The processes of one run: who am I, what do all agree on. A run in one process is a world of size 1.

`torchrun` starts the processes and tells each its place in environment variables; without it the world is this process
alone, and every function here works the same. Control messages travel over gloo (CPU), gradients over NCCL on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from openvla.errors import OpenVLAError, TrainingError
from openvla.nn.hardware import pick_device
from openvla.train.preflight import Place, check_links, check_reports, rendezvous

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""

TIMEOUT = timedelta(hours=1)
"""The longest wait for another process during a run: rank 0 alone writes the final checkpoint."""


@dataclass(frozen=True)
class World:
    """rank: of this process, from 0. size: processes in all. device: where this process computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that logs and writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """`value` of every process, by rank, in every process. Any small picklable object."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor`, on the device of this process, added up over the processes, in place. Nobody waits for a GPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def on_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in every process. What it raises there is raised in all."""
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except OpenVLAError as error:
                answer[1] = error
                if self.size == 1:
                    raise
        if self.size > 1:
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def first_then_others(self, make: Callable[[], T]) -> T:
        """What `make` returns, made by the first process before the others: it may fill a cache that they share."""
        if self.size == 1:
            return make()
        mine: list[T] = []
        self.on_first(lambda: mine.append(make()))
        return mine[0] if self.first else make()


@contextmanager
def connect(device: str, settings: Mapping[str, Any], timeout_s: float) -> Generator[World]:
    """The world of this run, checked by the preflight, for as long as the block lasts.

    device: as the user names it; "auto" or "cuda" gives each process its own GPU. settings: which must be alike in all
    processes. timeout_s: of the preflight. Raises TrainingError that names the process at fault; UsageError for a
    device that cannot be used.
    """
    if dist.is_initialized():  # the caller's program has made a group of its own
        yield World(dist.get_rank(), dist.get_world_size(), _device(device, int(os.environ.get("LOCAL_RANK", "0"))))
        return
    place = _place()
    if place is None:
        here = World(0, 1, pick_device(device))
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    else:
        store = rendezvous(place, timeout_s)
        here = World(place.rank, place.size, _device(device, place.local_rank))
        check_reports(store, place, here.device, settings, timeout_s)
        backend = "cpu:gloo,cuda:nccl" if here.device.type == "cuda" else "gloo"
        if here.device.type == "cuda":
            torch.cuda.set_device(here.device)
        dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.size, timeout=TIMEOUT)
    try:
        if place is not None:
            check_links(place, here.device, timeout_s)
        yield here
    finally:
        dist.destroy_process_group()


def _place() -> Place | None:
    """The place of this process as torchrun tells it; None where it was not started by torchrun."""
    if "WORLD_SIZE" not in os.environ and "RANK" not in os.environ:
        return None
    absent = [name for name in VARIABLES if name not in os.environ]
    if absent:
        raise TrainingError(
            f"the environment sets RANK or WORLD_SIZE but not {', '.join(absent)}; start several processes with "
            "torchrun, or unset them"
        )
    try:
        rank, size, local = (int(os.environ[name]) for name in VARIABLES[:3])
    except ValueError as error:
        raise TrainingError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers ({error}); use torchrun") from error
    return Place(rank, size, local, f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")


def _device(name: str, local_rank: int) -> torch.device:
    """The device of the process number `local_rank` of this machine."""
    device = pick_device(name)
    if str(device) != "cuda":
        return device
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise TrainingError(
            f"process {local_rank} of this machine needs a GPU of its own, and there are {count}; start at most "
            f"{count} with --nproc-per-node {count}"
        )
    return torch.device("cuda", local_rank)
