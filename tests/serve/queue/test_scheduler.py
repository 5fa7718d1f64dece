from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from serving import Bright, wait_until

from openvla.serve.guard.refusals import Refusal
from openvla.serve.queue.batching import BatchStepper, Stepper, make_stepper
from openvla.serve.queue.pace import Pace
from openvla.serve.queue.scheduler import Scheduler
from openvla.spec import Observation


def see(level: int, words: str = "go") -> Observation:
    return Observation(np.full((2, 2, 3), level, np.uint8), words)


def with_scheduler(
    work: Callable[[Scheduler], Coroutine[Any, Any, None]], policy: Any = None, capacity: int = 4, **settings: Any
) -> None:
    scheduler = Scheduler(lambda: make_stepper(policy or Bright(), capacity), **settings)
    scheduler.start(see(0))
    wait_until(lambda: scheduler.state != "warming up")
    try:
        asyncio.run(work(scheduler))
    finally:
        scheduler.stop_intake()
        assert scheduler.join(5)


def test_every_asker_gets_the_answer_to_its_own_question() -> None:
    async def work(scheduler: Scheduler) -> None:
        futures = [scheduler.submit(see(n), f"robot {n % 3}") for n in range(20)]
        answers = await asyncio.gather(*futures)
        assert [round(255 * answer.action.values[0, 0]) for answer in answers] == list(range(20))

    with_scheduler(work, queue=32)


def test_nothing_is_answered_before_the_warm_up_or_after_the_end() -> None:
    scheduler = Scheduler(lambda: BatchStepper(Bright(), 2))
    with pytest.raises(Refusal, match="the server is warming up; try again shortly"):
        scheduler.check_room()
    scheduler.start(see(0))
    wait_until(lambda: scheduler.state == "ready")
    scheduler.check_room()
    scheduler.stop_intake()
    assert scheduler.join(5)
    with pytest.raises(Refusal, match="the server is shutting down"):
        scheduler.check_room()


def test_a_policy_that_fails_at_warm_up_leaves_a_broken_server() -> None:
    scheduler = Scheduler(lambda: BatchStepper(Bright(), 2))
    scheduler.start(see(0, "fail"))
    wait_until(lambda: scheduler.state == "broken")
    with pytest.raises(Refusal, match="the server is broken"):
        scheduler.check_room()


def test_a_full_queue_refuses_at_once() -> None:
    async def work(scheduler: Scheduler) -> None:
        first = scheduler.submit(see(1), "a")
        await asyncio.sleep(0.05)  # with the policy, and no longer in the queue
        waiting = [scheduler.submit(see(1), "b") for _ in range(2)]
        with pytest.raises(Refusal, match="the server is overloaded: 2 requests wait already") as refused:
            scheduler.submit(see(1), "c")
        assert refused.value.status == 503
        assert refused.value.retry_after_s
        await asyncio.gather(first, *waiting)

    with_scheduler(work, Bright(0.2), capacity=1, queue=2, deadline_s=5.0)


def test_what_cannot_be_answered_in_time_is_not_let_in() -> None:
    async def work(scheduler: Scheduler) -> None:
        first = scheduler.submit(see(1), "a")
        with pytest.raises(Refusal, match=r"an action would take about .* s, longer than the deadline of 0\.2 s"):
            scheduler.submit(see(1), "b", deadline_s=0.2)
        await first

    with_scheduler(work, Bright(0.2), capacity=1)


def test_clients_take_turns() -> None:
    async def work(scheduler: Scheduler) -> None:
        order: list[str] = []
        futures = []
        for lane in ["greedy"] * 4 + ["modest"]:
            futures.append(scheduler.submit(see(1), lane))
            futures[-1].add_done_callback(lambda _, lane=lane: order.append(lane))
        await asyncio.gather(*futures)
        assert order.index("modest") <= 2

    with_scheduler(work, Bright(0.05), capacity=1, deadline_s=5.0)


def test_who_is_being_read_is_waited_for_and_runs_along() -> None:
    policy = Bright(0.1)

    async def work(scheduler: Scheduler) -> None:
        policy.batches.clear()
        with scheduler.coming():
            first = scheduler.submit(see(1), "a")
            await asyncio.sleep(0.02)
            second = scheduler.submit(see(2), "b")
        await asyncio.gather(first, second)
        assert policy.batches == [2]

    with_scheduler(work, policy)


def test_who_takes_long_to_be_read_is_not_waited_for() -> None:
    policy = Bright(0.05)

    async def work(scheduler: Scheduler) -> None:
        policy.batches.clear()
        with scheduler.coming():
            answer = await asyncio.wait_for(scheduler.submit(see(1), "a"), 2)
        assert answer.queued_s < 0.5
        assert policy.batches == [1]

    with_scheduler(work, policy)


def test_a_full_stepper_does_not_wait_for_more() -> None:
    policy = Bright(0.2)

    async def work(scheduler: Scheduler) -> None:
        with scheduler.coming():
            answers = await asyncio.gather(*(scheduler.submit(see(n), "a") for n in range(2)))
        assert max(answer.queued_s for answer in answers) < 0.1

    with_scheduler(work, policy, capacity=2)


def test_waiting_for_others_ends_once_the_batch_is_full() -> None:
    policy = Bright(0.4)

    async def work(scheduler: Scheduler) -> None:
        with scheduler.coming():
            first = scheduler.submit(see(1), "a")
            await asyncio.sleep(0.02)
            answers = await asyncio.gather(first, scheduler.submit(see(2), "b"))
        assert max(answer.queued_s for answer in answers) < 0.2

    with_scheduler(work, policy, capacity=2)


def test_what_would_come_too_late_is_refused_before_it_is_computed() -> None:
    policy = Bright(0.25)

    async def work(scheduler: Scheduler) -> None:
        scheduler.pace = Pace()  # which lets everybody in, until it has learned
        running = scheduler.submit(see(0), "a")
        wait_until(lambda: scheduler.in_progress == 1)
        late = scheduler.submit(see(1), "b", deadline_s=0.4)
        await running
        with pytest.raises(Refusal, match="the request waited too long to be answered within its deadline"):
            await late
        assert not any(observation.image[0, 0, 0] == 1 for observation in policy.seen)
        assert 0 not in policy.batches

    with_scheduler(work, policy, capacity=1)


def test_one_bad_observation_spoils_no_other() -> None:
    async def work(scheduler: Scheduler) -> None:
        futures = [scheduler.submit(see(n, words), "a") for n, words in enumerate(["go", "fail", "go"])]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(answers[1], ArithmeticError)
        assert [round(255 * answers[n].action.values[0, 0]) for n in (0, 2)] == [0, 2]

    with_scheduler(work)


class Continuous:
    """Finishes each observation after three steps, whenever it came in; can be made to fail."""

    def __init__(self, policy: Bright) -> None:
        self.policy, self.capacity = policy, 2
        self.work: dict[Any, list[Any]] = {}
        self.fails = False

    def room(self, waiting: int) -> int:
        return self.capacity - len(self.work)

    def admit(self, key: Any, observation: Observation) -> None:
        assert len(self.work) < self.capacity
        self.work[key] = [0, observation]

    def step(self) -> list[tuple[Any, Any]]:
        if self.fails:
            raise MemoryError("out of memory")
        for entry in self.work.values():
            entry[0] += 1
        done = [key for key, (steps, _) in self.work.items() if steps == 3]
        return [(key, self.policy.act(self.work.pop(key)[1])) for key in done]


class WithStepper(Bright):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Continuous] = []

    def stepper(self, capacity: int) -> Continuous:
        self.made.append(Continuous(self))
        return self.made[-1]


def test_a_policys_own_stepper_is_used_and_never_overfilled() -> None:
    policy = WithStepper()
    assert isinstance(make_stepper(policy, 2), Stepper)

    async def work(scheduler: Scheduler) -> None:
        answers = await asyncio.gather(*(scheduler.submit(see(n), "a") for n in range(9)))
        assert [round(255 * answer.action.values[0, 0]) for answer in answers] == list(range(9))

    with_scheduler(work, policy)


def test_a_stepper_that_breaks_is_replaced_and_in_the_end_given_up() -> None:
    policy = WithStepper()

    async def work(scheduler: Scheduler) -> None:
        for _ in range(3):
            policy.made[-1].fails = True
            with pytest.raises(Refusal, match="the policy failed on this request"):
                await scheduler.submit(see(1), "a")
            if scheduler.state == "ready" and len(policy.made) == 2:
                assert (await scheduler.submit(see(1), "a")).action is not None
                for made in policy.made:
                    made.fails = True
        assert len(policy.made) >= 2

    scheduler = Scheduler(lambda: make_stepper(policy, 2))
    scheduler.start(see(0))
    wait_until(lambda: scheduler.state == "ready")
    asyncio.run(work(scheduler))
    scheduler.stop_intake()
    assert scheduler.join(5)


def test_the_pace_follows_a_slow_down_at_once_and_a_speed_up_slowly() -> None:
    pace = Pace()
    assert pace.wait(5, 1, 4) == 0
    pace.learn(1, 0.1)
    assert pace.seconds(1) == pytest.approx(0.1)
    assert pace.seconds(4) == pytest.approx(0.4)
    pace.learn(4, 0.2)
    assert pace.seconds(3) == pytest.approx(0.2)
    pace.learn(1, 0.3)
    assert pace.seconds(1) == pytest.approx(0.2)
    pace.learn(1, 0.1)
    assert pace.seconds(1) == pytest.approx(0.19)
    assert pace.wait(9, 4, 4) > pace.wait(9, 0, 4) > pace.wait(0, 0, 4)
