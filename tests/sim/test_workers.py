from __future__ import annotations

import os

import pytest
import sim_fakes

from openvla.errors import InputError, SimulatorError
from openvla.sim.workers import THREADS, each, executor


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_every_process_is_prepared(workers):
    with executor(workers, sim_fakes.install, (100,)) as pool:
        assert list(each(pool, sim_fakes.given_plus, range(5))) == [100, 101, 102, 103, 104]
        assert pool.submit(sim_fakes.given_plus, 7).result() == 107


def test_one_worker_runs_each_job_only_when_its_result_is_asked_for():
    ran = []
    with executor(1) as pool:
        results = each(pool, ran.append, [1, 2, 3])
        next(results)
    assert ran == [1]


def test_worker_processes_use_one_numerical_thread_and_the_variable_is_put_back(monkeypatch):
    monkeypatch.setenv(THREADS, "7")
    with executor(2) as pool:
        assert list(each(pool, sim_fakes.threads, [0])) == ["1"]
    assert os.environ[THREADS] == "7"
    monkeypatch.delenv(THREADS)
    with executor(2):
        pass
    assert THREADS not in os.environ


def test_a_killed_worker_is_told_and_nothing_waits():
    rule = r"a worker process died before it could answer .*; use fewer workers, or workers=1 to see its own error"
    with pytest.raises(SimulatorError, match=rule), executor(2) as pool:
        list(each(pool, sim_fakes.die, [0, 1, 2]))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_a_worker_comes_as_itself(workers):
    with pytest.raises(ArithmeticError, match="no 3"), executor(workers) as pool:
        list(each(pool, sim_fakes.fail, [3, 4]))


@pytest.mark.parametrize("workers", [0, -2])
def test_no_workers_are_refused(workers):
    rule = f"{workers} workers cannot run anything; give a number from 1"
    with pytest.raises(InputError, match=rule), executor(workers):
        pass
