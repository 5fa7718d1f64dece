"""A simulator that is driven from the page: choose a scene, type an instruction, watch the policy try.

It is one more client of the server, in a thread that owns the simulator. Which simulator that is, it does not know.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openvla.errors import InputError, lookup
from openvla.serve.guard.refusals import Refusal
from openvla.serve.service import Caller, Reply, Service
from openvla.spec import Environment, Observation

CALLER = Caller("demo", "local", "simulator")
PATIENCE_S = 10.0
PAUSE_S = 1.5
"""Between the end of an episode and the next, so that one sees how it ended."""
WORDS = 200

log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Wish:
    """What a viewer wants to see: a scene, from which start (None: the next one), told what."""

    scene: str
    instruction: str
    seed: int | None = None


class Demo:
    """Plays episodes as viewers ask for them.

    instructions: what is usually said in each scene. build: makes the environment of a scene, in the demo's own thread.
    """

    def __init__(self, instructions: Mapping[str, str], build: Callable[[str], Environment]) -> None:
        self._instructions = dict(instructions)
        self._build = build
        self._wish: Wish | None = None
        self._change = threading.Condition()
        self._stopping = False
        self._seeds = itertools.count()
        self._status: dict[str, Any] = {"state": "idle"}
        self._thread = threading.Thread(target=self._work, name="demo", daemon=True)

    def scenes(self) -> dict[str, str]:
        """The usual instruction by scene."""
        return dict(self._instructions)

    def status(self) -> dict[str, Any]:
        """What is going on, JSON-ready."""
        return dict(self._status)

    def command(self, message: Mapping[str, Any]) -> None:
        """{"do": "play", "scene", "instruction", "seed"?} or {"do": "stop"}; takes effect at the next step.

        Raises UsageError for an unknown scene, InputError for everything else that is wrong.
        """
        match message.get("do"):
            case "play":
                wish = self._checked(message)
            case "stop":
                wish = None
            case other:
                raise InputError(f"the command {str(other)[:32]!r} is unknown; send 'play' or 'stop'")
        with self._change:
            self._wish = wish
            self._change.notify()

    def start(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, as a client of `service`, which lives on `loop`."""
        self._service, self._loop = service, loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the simulator."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(PATIENCE_S)

    def _checked(self, message: Mapping[str, Any]) -> Wish:
        scene, words, seed = message.get("scene"), message.get("instruction"), message.get("seed")
        if not isinstance(scene, str):
            raise InputError("the command names no scene")
        lookup(scene, self._instructions, "scene")
        if not isinstance(words, str) or not words.strip() or len(words) > WORDS:
            raise InputError(f"say in 1 to {WORDS} characters what the robot should do")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**31):
            raise InputError(f"the start {str(seed)[:32]!r} is not a whole number from 0")
        return Wish(scene, " ".join(words.split()), seed)

    def _work(self) -> None:
        scene, environment = "", None
        try:
            while True:
                with self._change:
                    while self._wish is None and not self._stopping:
                        self._status = {**self._status, "state": "idle"}
                        self._change.wait()
                    wish = self._wish
                if self._stopping or wish is None:
                    return
                if environment is None or scene != wish.scene:
                    if environment is not None:
                        environment.close()
                    scene, environment = wish.scene, self._build(wish.scene)
                self._play(wish, environment)
        except Exception as error:
            log.exception("the demo stopped")
            self._status = {"state": "broken", "error": str(error)}
        finally:
            if environment is not None:
                environment.close()

    def _play(self, wish: Wish, environment: Environment) -> None:
        """One episode, at the robot's own pace, until it ends or a viewer wants something else."""
        seed = next(self._seeds) if wish.seed is None else wish.seed
        observation, steps, done, success = environment.reset(seed), 0, False, False
        period_s = 1 / environment.spec.control_hz if environment.spec.control_hz > 0 else 0.0
        due = time.monotonic()
        while not done and self._wanted(wish):
            reply = self._ask(dataclasses.replace(observation, instruction=wish.instruction))
            for values in () if reply is None else reply.action.values:
                transition = environment.step(values)
                observation, success, done = transition.observation, transition.success, transition.done
                steps += 1
                if done:
                    break
            self._status = {
                "state": "playing", "scene": wish.scene, "instruction": wish.instruction, "seed": seed, "steps": steps
            }  # fmt: skip
            due = max(due + period_s, time.monotonic() - period_s)
            time.sleep(max(0.0, due - time.monotonic()))
        if done:
            self._status = {**self._status, "state": "success" if success else "failure"}
            with self._change:
                self._change.wait_for(lambda: not self._wanted(wish), PAUSE_S)
                if wish.seed is not None and self._wish is wish:
                    self._wish = None  # a start that was asked for by number is played once

    def _wanted(self, wish: Wish) -> bool:
        return self._wish is wish and not self._stopping

    def _ask(self, observation: Observation) -> Reply | None:
        """The server's reply, or None where it refuses: the simulator waits, as a robot would."""

        async def ask() -> Reply:
            message = {
                "image": observation.image,
                "instruction": observation.instruction,
                "proprio": observation.proprio,
            }
            with self._service.request(CALLER) as books:
                return await self._service.answer(lambda: message, books)

        try:
            return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(PATIENCE_S)
        except (Refusal, TimeoutError) as error:
            log.debug("the demo waits: %s", error)
            time.sleep(0.1)
            return None
