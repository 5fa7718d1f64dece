from __future__ import annotations

import functools
import importlib.util
import os
import pickle
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from serving import IMAGE, SPEC, Bright, running

from openvla.cli.serve import Options, load
from openvla.errors import InputError, MissingDependencyError, ServerError, UsageError
from openvla.serve import cluster
from openvla.serve.client import RemotePolicy
from openvla.serve.cluster import Fleet, FleetPolicy, Replica, deploy, fleet
from openvla.serve.guard.refusals import Refusal, overloaded
from openvla.serve.served import Served, spec_from_dict
from openvla.spec import Action, Observation

SEEN = Observation(IMAGE, "go")


class DeadError(Exception):
    """As Ray says it."""


class Handle:
    """Replicas that fail as they are told, then answer."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.act = self
        self.asked = 0

    def remote(self, observation: Observation) -> Handle:
        self.asked += 1
        return self

    def result(self) -> Action:
        if self.failures:
            raise self.failures.pop(0)
        return Action(np.ones((1, 3)))


@pytest.fixture(autouse=True)
def without_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real" not in request.node.name:
        monkeypatch.setattr(cluster, "deaths", lambda: (DeadError,))
        monkeypatch.setattr(cluster, "PAUSE_S", 0.001)


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError("ray's wrapping")
    error.cause = cause  # type: ignore[attr-defined]
    return error


def test_a_request_whose_replica_dies_goes_to_another() -> None:
    handle = Handle(DeadError(), DeadError())
    assert FleetPolicy(handle, SPEC, 4).act(SEEN).values.tolist() == [[1, 1, 1]]
    assert handle.asked == 3


def test_where_no_replica_is_left_the_client_is_told_to_try_again() -> None:
    with pytest.raises(Refusal, match="no replica of the policy is alive; try again later") as caught:
        FleetPolicy(Handle(*[DeadError()] * 9), SPEC, 4).act(SEEN)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)


def test_what_a_replica_refuses_is_not_asked_again() -> None:
    handle = Handle(wrapped(InputError("the image is odd")))
    with pytest.raises(InputError, match="the image is odd"):
        FleetPolicy(handle, SPEC, 4).act(SEEN)
    assert handle.asked == 1


def test_a_refusal_survives_its_way_between_processes() -> None:
    before = overloaded("too many; try again", 0.7)
    after = pickle.loads(pickle.dumps(before))
    assert (str(after), after.status, after.reason, after.retry_after_s) == (str(before), 503, "overloaded", 0.7)


def test_a_server_in_front_of_a_fleet_answers_as_any_other() -> None:
    policy = FleetPolicy(Handle(DeadError(), wrapped(InputError("odd"))), SPEC, 4)
    stepper = policy.stepper(2)
    assert stepper.capacity == 4
    stepper.admit("a", SEEN)
    stepper.admit("b", SEEN)
    answers: dict[Any, Any] = {}
    while len(answers) < 2:
        answers.update(stepper.step())
    assert sorted(type(each).__name__ for each in answers.values()) == ["Action", "InputError"]


def test_a_replica_is_healthy_until_its_policy_breaks() -> None:
    replica = Replica(lambda: Served(Bright()), 2)
    replica.check_health()
    replica._scheduler.state = "broken"
    with pytest.raises(RuntimeError, match="the policy is broken"):
        replica.check_health()
    replica._scheduler.stop_intake()


@pytest.mark.parametrize("wrong", [{"replicas": 0}, {"batch": 0}, {"cpus": -1.0}, {"drain_s": 0.0}])
def test_fleets_of_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"start from 1|from 0"):
        Fleet(**wrong)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"openvla\[cluster\]"), fleet(lambda: Served(Bright()), Fleet()):
        pass


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs openvla[cluster]")
@pytest.mark.filterwarnings("ignore")
def test_a_real_fleet_loses_nothing_when_a_replica_is_killed_and_updates_under_load(one_thread: None) -> None:
    load_nano = functools.partial(load, Options(checkpoint="nano"))
    seen = Observation(np.full((64, 64, 3), 90, np.uint8), "open the drawer")
    options = Fleet(replicas=2, cpus=0.5, batch=2)
    actions: list[np.ndarray] = []
    failures: list[Exception] = []
    retried = [0]
    stop = threading.Event()
    with fleet(load_nano, options) as served, running(served.policy, served=served, deadline_s=30.0) as server:
        handle: Any = served.policy._handle

        def robot() -> None:
            policy = RemotePolicy(server.url, timeout_s=60.0)
            while not stop.is_set():
                try:
                    actions.append(policy.act(seen).values)
                except Exception as error:
                    try:  # the one retry that a client may need
                        retried[0] += 1
                        actions.append(policy.act(seen).values)
                    except Exception:
                        failures.append(error)

        robots = [threading.Thread(target=robot) for _ in range(4)]
        for each in robots:
            each.start()
        processes = told(handle, 2)
        before = len(actions)
        os.kill(min(processes), signal.SIGKILL)
        time.sleep(3)
        assert len(actions) > before
        replaced = told(handle, 2)  # Ray has started another
        assert len(replaced - processes) == 1
        deploy(load_nano, options)  # a rolling update
        updated = told(handle, 2)
        assert not updated & replaced
        stop.set()
        for each in robots:
            each.join(60)
        counts = server.service.live.counts()
    print(f"{len(actions)} actions, {retried[0]} retries, {len(failures)} lost; server: {counts}")
    assert not failures
    assert counts["answered"] == len(actions)
    assert all(np.array_equal(each, actions[0]) for each in actions)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs openvla[cluster]")
@pytest.mark.filterwarnings("ignore")
def test_a_real_fleet_that_cannot_load_says_so(one_thread: None) -> None:
    load_nothing = functools.partial(load, Options(checkpoint="/nowhere"))
    with pytest.raises(ServerError, match="the replicas of the policy did not start"), fleet(load_nothing, Fleet(1)):
        pass


def told(handle: Any, count: int) -> set[int]:
    """The processes of so many replicas that answer."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        recent: list[int] = []
        for _ in range(12):
            try:
                document = handle.tell.remote().result(timeout_s=10)
            except Exception:
                break
            assert spec_from_dict(document["spec"]).dim
            recent.append(document["process"])
        if len(set(recent)) == count and len(recent) == 12:
            return set(recent)
        time.sleep(0.5)
    raise AssertionError("the replicas did not come up")
