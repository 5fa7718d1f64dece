"""`openvla serve`: a policy for robots on the network."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from openvla.cli.output import Result

if TYPE_CHECKING:
    from openvla.serve.served import Served
    from openvla.serve.server import Settings
    from openvla.serve.watch.demo import Demo

SWITCH_S = 5e-4
"""How long a thread may keep the interpreter while another wants it. The policy comes back for it after each of many
short computations, and with Python's 5 ms would stand still while the network's thread works."""


@dataclass(frozen=True)
class Options:
    """Serve a policy over HTTP and WebSockets, with a page to watch it at /.

    Protocols: POST /act as the published server takes it, openpi's at /ws and /, vla-eval's at / and /vla-eval.
    Without a key only this machine may ask.
    """

    checkpoint: str = "nano"
    """A hub id, a checkpoint directory, or a shipped name such as "nano"."""
    host: str = "127.0.0.1"
    """Address to listen on; any that other machines reach needs a key or --insecure."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    statistics: str | None = None
    """Key of the data set whose statistics scale the action; may be omitted where the checkpoint has one."""
    quantize: Literal["int8", "int4", "fp8"] | None = None
    """Hold the weights in fewer bits."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """bf16, fp16, fp32; auto keeps the stored one where the hardware has it."""
    batch: int = 16
    """Most actions computed together."""
    queue: int = 64
    """Most requests that wait; further ones get 503 at once."""
    deadline_s: float | None = None
    """Longest time to an answer; where omitted, four full batches as measured at warm-up, at least 1 s."""
    limits: Path | None = None
    """JSON file of limits per action dimension: {"x": {"low": -1, "high": 1, "max_change": 0.2, "hold": 0}, ...}."""
    min_confidence: float = 0.0
    """Hold instead of an action that has a bin of less probability than this."""
    max_age_s: float = math.inf
    """Refuse observations that are older than this by their 'captured_at'."""
    key_file: Path | None = None
    """File of keys, one a line, "name:key" or only "key"; where omitted, the variable OPENVLA_API_KEY."""
    insecure: bool = False
    """Let anybody who reaches the address move the robot, without a key."""
    tls_cert: Path | None = None
    """Certificate (PEM) to serve https and wss with."""
    tls_key: Path | None = None
    """Private key (PEM) of the certificate."""
    rate_limit: float | None = None
    """Most requests per second and key, or per address where no keys are in use."""
    audit: Path | None = None
    """File to append one JSON line per request to; standard error where omitted."""
    drain_s: float = 10.0
    """After SIGTERM, longest time to finish what was accepted."""
    replicas: int = 1
    """Copies of the policy, in the Ray cluster that RAY_ADDRESS names, else on this machine."""
    demo: Annotated[str | None, tyro.conf.arg(metavar="SUITE")] = None
    """Also run this simulator, e.g. metaworld, to be driven from the page."""
    json: bool = False
    """Print one JSON object, at the end, and nothing else."""


def run(options: Options) -> Result:
    """Take the address, load, serve until told to stop; hand back how much was done."""
    from openvla.serve.server import Server

    logging.basicConfig(format="openvla: %(message)s", stream=sys.stderr)
    demo = None if options.demo is None else build_demo(options.demo)
    server = Server(settings(options))
    done: dict[str, int | str] = {"url": server.url}
    try:
        with loaded(options) as served:
            if options.demo is not None:
                check_demo(served, options.demo)

            def started(_: object) -> None:
                print(f"openvla: {options.checkpoint} at {server.url}", file=sys.stderr, flush=True)

            totals = server.serve(served, demo, started=started)
    finally:
        server.close()
    done |= totals
    return Result(done, f"{totals['answered']} requests answered, {totals['refused']} refused")


def settings(options: Options) -> Settings:
    """The server's settings."""
    from openvla.serve.server import Settings

    return Settings(
        host=options.host,
        port=options.port,
        batch=options.batch,
        queue=options.queue,
        deadline_s=options.deadline_s,
        rate=options.rate_limit,
        safety=options.limits,
        min_confidence=options.min_confidence,
        max_age_s=options.max_age_s,
        key_file=options.key_file,
        insecure=options.insecure,
        certificate=options.tls_cert,
        certificate_key=options.tls_key,
        audit=options.audit,
        drain_s=options.drain_s,
    )


@contextlib.contextmanager
def loaded(options: Options) -> Generator[Served]:
    """The policy, in this process or as a fleet that lives as long as the block."""
    sys.setswitchinterval(SWITCH_S)
    if options.replicas == 1:
        leave_a_core()
        yield load(options)
        return
    from openvla.nn.hardware import pick_device
    from openvla.serve.cluster import Fleet, fleet

    gpus = float(pick_device(options.device).type == "cuda")
    with fleet(functools.partial(load, options), Fleet(options.replicas, gpus=gpus, batch=options.batch)) as served:
        yield served


def leave_a_core() -> None:
    """Keep the policy off one core, unless OMP_NUM_THREADS says otherwise: the network needs it.

    Where both share it, each step of the policy waits for its slowest thread: on two cores, two threads answer a
    quarter fewer requests than one does.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))


def load(options: Options) -> Served:
    """The policy with what the server tells of it."""
    from openvla.infer.policy import load_policy
    from openvla.infer.split import cuts_of
    from openvla.model.fingerprint import sample_hash
    from openvla.serve.served import Served

    policy = load_policy(
        options.checkpoint,
        statistics=options.statistics,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
    )
    codec = policy.codec
    keys = tuple(codec.statistics)
    return Served(
        policy,
        name=Path(options.checkpoint).name,
        fingerprint=sample_hash(policy.model.state_dict()),
        chunk=codec.chunk,
        statistics=options.statistics or (keys[0] if len(keys) == 1 else None),
        keys=keys,
        decode=codec.decode_tokens,
        cuts=cuts_of(policy.model),
    )


def build_demo(suite: str) -> Demo:
    """The simulator for the page. Raises UsageError for an unknown suite."""
    from openvla.errors import lookup
    from openvla.serve.watch.demo import Demo
    from openvla.sim.metaworld import IMAGE_SIZE
    from openvla.sim.suites import SUITES

    known = lookup(suite, SUITES, "suite")
    shown = {task: known.instructions[task] for task in known.default}
    return Demo(shown, lambda task: known.build(task, IMAGE_SIZE))


def check_demo(served: Served, suite: str) -> None:
    """Raise InputError where the policy's actions would mean something else in the simulator."""
    from openvla.sim.suites import SUITES, check_policy_spec

    check_policy_spec(served.policy.spec, suite, SUITES[suite].spec)
