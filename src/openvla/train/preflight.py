"""What can be wrong between the processes of a run, found before the first step and within a time limit.

Every process leaves a report in the store of the rendezvous (a few values over TCP, no collective operation), waits for
those of the others and compares them with the first one's. So all say the same, and who is absent has a name. Then one
reduction goes over the links that gradients will take.
"""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous as meet

from openvla.errors import TrainingError


@dataclass(frozen=True)
class Place:
    """rank: of this process, of `size`. local_rank: on this machine. address: host:port of the rendezvous."""

    rank: int
    size: int
    local_rank: int
    address: str


def rendezvous(place: Place, timeout_s: float) -> Store:
    """The store that all processes share. Raises TrainingError where it cannot be reached in time."""
    try:
        found = meet("env://", place.rank, place.size, timeout=timedelta(seconds=timeout_s))
        return next(iter(found))[0]
    except (dist.DistError, RuntimeError, ValueError, OSError) as error:
        raise TrainingError(
            f"rank {place.rank} of {place.size} cannot reach the rendezvous at {place.address} within {timeout_s:g} s "
            f"({str(error).splitlines()[0]}); check address, port and firewall, and that all machines name the same"
        ) from error


def report(device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What must be alike in all processes, apart from `host`."""
    return {
        "host": socket.gethostname(),
        "openvla": metadata.version("openvla"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{f"--{name.replace('_', '-')}": value for name, value in settings.items()},
    }


def check_reports(
    store: Store, place: Place, device: torch.device, settings: Mapping[str, Any], timeout_s: float
) -> None:
    """Exchange reports and raise TrainingError for a process that is absent, or differs from the first."""
    try:
        store.set(_key("report", place.rank), json.dumps(report(device, settings)))
        _await(store, place, "report", timeout_s)
        reports = [json.loads(store.get(_key("report", rank))) for rank in range(place.size)]
        store.set(_key("read", place.rank), "")
        if place.rank == 0:  # it may hold the store, which must outlive the last reader
            _await(store, place, "read", timeout_s)
    except (dist.DistError, RuntimeError) as error:
        raise TrainingError(
            f"rank {place.rank} lost the rendezvous at {place.address}, as rank 0 ended or the network failed; see "
            "what rank 0 says"
        ) from error
    for rank, theirs in enumerate(reports):
        for name, value in reports[0].items():
            if name != "host" and theirs.get(name) != value:
                raise TrainingError(
                    f"rank {rank} on {theirs['host']} has {name} {theirs.get(name)!r}, and rank 0 on "
                    f"{reports[0]['host']} has {value!r}; all processes of a run must agree"
                )


def check_links(place: Place, device: torch.device, timeout_s: float) -> None:
    """Reduce one number over all processes, as gradients will be, or raise TrainingError."""
    ones = torch.ones(1, device=device)
    try:
        work: Any = dist.all_reduce(ones, async_op=True)
        deadline = time.monotonic() + timeout_s
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {timeout_s:g} s")
            time.sleep(0.005)
        work.wait()
        if int(ones.item()) != place.size:
            raise RuntimeError(f"it gave {ones.item():g}")
    except (RuntimeError, TimeoutError) as error:
        hint = (
            "NCCL_DEBUG=INFO says more; NCCL_P2P_LEVEL=NVL or NCCL_P2P_DISABLE=1 often helps"
            if device.type == "cuda"
            else "GLOO_SOCKET_IFNAME names the network interface to use"
        )
        raise TrainingError(
            f"rank {place.rank}: the first sum over {place.size} processes failed ({str(error).splitlines()[0]}); "
            f"{hint}"
        ) from error


def _await(store: Store, place: Place, kind: str, timeout_s: float) -> None:
    """Return when every process has left its `kind` of message."""
    deadline = time.monotonic() + timeout_s
    absent = set(range(place.size))
    while absent:
        absent = {rank for rank in absent if not store.check([_key(kind, rank)])}
        if absent and time.monotonic() > deadline:
            named = ", ".join(map(str, sorted(absent)[:8])) + (", ..." if len(absent) > 8 else "")
            raise TrainingError(
                f"rank {place.rank} of {place.size} waited {timeout_s:g} s at {place.address}, and rank {named} did "
                "not report; see what stopped it there, or start as many processes as --nproc-per-node and --nnodes say"
            )
        time.sleep(0.01 if absent else 0)


def _key(kind: str, rank: int) -> str:
    return f"openvla/preflight/{kind}/{rank}"
