"""A fleet: one policy on many machines behind the ordinary server, by way of Ray Serve.

    robots -- openvla serve: protocols, safety, keys -- FleetPolicy -- any of the replicas: queue, stepper, policy

The server stays what it is; its policy is a `FleetPolicy`, whose stepper hands each observation to a replica. An
action depends on nothing but its observation, so a request whose replica dies is given to another one: whoever was
accepted is answered. Ray Serve replaces dead replicas, and on an update one replica after the other.

Source: docs.ray.io, Ray Serve 2.x: deployments, `check_health`, rolling updates.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from openvla.errors import ServerError, UsageError, require
from openvla.serve.guard.refusals import UNAVAILABLE, Refusal
from openvla.serve.queue.batching import make_stepper
from openvla.serve.queue.scheduler import Scheduler
from openvla.serve.served import Served, spec_from_dict, spec_to_dict
from openvla.serve.server import gray
from openvla.spec import Action, ActionSpec, Observation

EXTRA = "cluster"
NAME = "openvla"
ATTEMPTS = 5
PAUSE_S = 0.1
"""Between attempts: how long the router may take to notice that a replica is dead."""

POLL_S = 0.005
"""Longest wait for an action before further observations may be handed out."""

PATIENCE_S = 3600.0
"""Deadline within a replica: which request comes too late is judged once, by the server in front."""

Loader = Callable[[], Served]

log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Fleet:
    """How many replicas, and of what. cpus, gpus: of each. batch: most actions a replica computes together.

    drain_s: longest time for a replica that is replaced to finish its work.
    """

    replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = 16
    drain_s: float = 20.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.batch < 1:
            raise UsageError(f"a fleet has {self.replicas} replicas of batch {self.batch}; both start from 1")
        if not (self.cpus >= 0 and self.gpus >= 0 and self.drain_s > 0):
            raise UsageError("cpus and gpus of a fleet are numbers from 0, drain_s is seconds above 0")


class Replica:
    """One copy of the policy, in a process that Ray Serve watches. All methods belong to its event loop."""

    def __init__(self, load: Loader, batch: int) -> None:
        self._served = load()
        self._scheduler = Scheduler(
            lambda: make_stepper(self._served.policy, batch), queue=4 * batch, deadline_s=PATIENCE_S
        )
        self._scheduler.start(gray(self._served.policy.spec))
        while self._scheduler.state == "warming up":
            time.sleep(0.01)
        self.check_health()

    async def act(self, observation: Observation) -> Action:
        """The action for one observation, computed with those of others that wait."""
        return (await self._scheduler.submit(observation, "fleet")).action

    async def tell(self) -> dict[str, Any]:
        """What the server in front should know, and the process."""
        served = self._served
        return {
            "spec": spec_to_dict(served.policy.spec),
            "name": served.name,
            "fingerprint": served.fingerprint,
            "chunk": served.chunk,
            "statistics": served.statistics,
            "process": os.getpid(),
        }

    def check_health(self) -> None:
        """Raise, so that Ray Serve replaces this replica, once its policy is broken."""
        if self._scheduler.state != "ready":
            raise RuntimeError(f"the policy is {self._scheduler.state}")


class FleetPolicy:
    """`Policy` over the replicas. handle: of the Ray Serve deployment."""

    def __init__(self, handle: Any, spec: ActionSpec, workers: int) -> None:
        self.spec = spec
        self._handle = handle
        self._workers = workers
        self._died: tuple[type[BaseException], ...] = deaths()

    def act(self, observation: Observation) -> Action:
        """From whichever replica is free; from another where that one dies. Raises ServerError where none is left."""
        for attempt in range(ATTEMPTS):
            try:
                return self._handle.act.remote(observation).result()
            except self._died as error:
                log.warning("a replica was lost with a request, which goes to another (%s)", type(error).__name__)
                time.sleep(PAUSE_S * 2**attempt)
            except Exception as error:
                raise own(error) from None
        raise Refusal(UNAVAILABLE, "fleet", "no replica of the policy is alive; try again later", 1.0)

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        """All at once, each from a replica."""
        with ThreadPoolExecutor(max(1, len(observations))) as pool:
            return list(pool.map(self.act, observations))

    def reset(self) -> None:
        """Nothing to forget: replicas remember no robot."""

    def stepper(self, capacity: int) -> FleetStepper:
        """For the server's queue. It keeps all replicas busy, so its capacity is that of the fleet."""
        return FleetStepper(self, max(capacity, self._workers))


class FleetStepper:
    """Hands observations to the replicas; gives actions back in the order in which they are finished."""

    def __init__(self, policy: FleetPolicy, capacity: int) -> None:
        self.capacity = capacity
        self._policy = policy
        self._pool = ThreadPoolExecutor(capacity, "fleet")
        self._running: dict[Future[Action], Hashable] = {}

    def room(self, waiting: int) -> int:
        """As many as the replicas have places for."""
        del waiting
        return self.capacity - len(self._running)

    def admit(self, key: Hashable, observation: Observation) -> None:
        """Send it on its way."""
        self._running[self._pool.submit(self._policy.act, observation)] = key

    def step(self) -> list[tuple[Hashable, Action | Exception]]:
        """What has come back; waits a moment where nothing has."""
        done, _ = wait(self._running, POLL_S, FIRST_COMPLETED)
        return [(self._running.pop(each), _outcome(each)) for each in done]


@contextlib.contextmanager
def fleet(load: Loader, options: Fleet) -> Generator[Served]:
    """Replicas of the policy that `load` makes, and what a `Server` needs to stand in front of them.

    Joins the Ray cluster that RAY_ADDRESS names, or starts one on this machine; at the end the replicas are removed.
    Features are not taken: after an update, nobody in front would know of which weights they must be.
    Raises MissingDependencyError without the packages of the extra `cluster`, ServerError where no replica starts.
    """
    ray, serve = require("ray", EXTRA), require("ray.serve", EXTRA)
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(proxy_location="Disabled")
        handle = deploy(load, options)
        told = handle.tell.remote().result()
        policy = FleetPolicy(handle, spec_from_dict(told["spec"]), options.replicas * options.batch)
        yield Served(policy, told["name"], told["fingerprint"], told["chunk"], told["statistics"])
    finally:
        serve.delete(NAME)
        if mine:
            serve.shutdown()
            ray.shutdown()


def deploy(load: Loader, options: Fleet) -> Any:
    """Start the replicas, or replace running ones, one after the other, and return a handle to them.

    Raises ServerError where they do not start.
    """
    serve = require("ray.serve", EXTRA)
    deployment = serve.deployment(Replica).options(
        name="policy",
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        max_ongoing_requests=2 * options.batch,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=options.drain_s,
        max_constructor_retry_count=1,
    )
    try:
        return serve.run(deployment.bind(load, options.batch), name=NAME, route_prefix=None)
    except RuntimeError as error:
        raise ServerError(
            "the replicas of the policy did not start; see the logs of Ray, and check that each finds its processors, "
            "memory and checkpoint"
        ) from error


def deaths() -> tuple[type[BaseException], ...]:
    """What Ray raises where a replica is gone, with or without the request having reached it."""
    exceptions = require("ray.exceptions", EXTRA)
    return (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.NodeDiedError)


def own(error: Exception) -> Exception:
    """The error as the replica raised it, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def _outcome(future: Future[Action]) -> Action | Exception:
    error = future.exception()
    return future.result() if error is None else error if isinstance(error, Exception) else RuntimeError(str(error))
