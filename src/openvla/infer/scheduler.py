"""Continuous batching: observations that arrive while others are being decoded join at the next step.

Rows 0 .. n-1 of the cache are those in work. A step reads what was admitted since the last one into the rows behind
them, adds one token to every row, and hands back the rows that are complete; the last row then moves into the gap.
Each row has its own number of chosen tokens, so nothing waits for anything, and each answer has the tokens it would
have alone.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla.errors import InputError, OpenVLAError
from openvla.infer.engine import Engine, Progress
from openvla.infer.sight import Sight, embed, sight
from openvla.spec import Action, Observation


@runtime_checkable
class Interpreter(Protocol):
    """What a stepper needs of a policy: observations to prompts and pixels, tokens to actions."""

    def prompt(self, instruction: str) -> list[int]: ...
    def pixels(self, observations: Sequence[Observation]) -> Tensor: ...
    def answer(
        self, prompt: Sequence[int], tokens: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]: ...


@dataclass
class Request:
    """One observation on its way. remaining: tokens still to be chosen. Seconds are of the host's clock."""

    key: Hashable
    observation: Observation
    arrived: float
    prompt: list[int] = field(default_factory=list[int])
    remaining: int = 0
    seconds: dict[str, float] = field(default_factory=dict[str, float])


class Stepper:
    """At most `capacity` observations at a time; not for several threads at once."""

    def __init__(self, interpreter: Interpreter, engine: Engine, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"the capacity is {capacity}; a stepper works on at least 1 observation")
        self.capacity = capacity
        self._interpreter, self._engine = interpreter, engine
        self._waiting: list[Request] = []
        self._working: list[Request] = []
        self._progress: Progress | None = None

    @property
    def _free(self) -> int:
        """Places that nobody has."""
        return self.capacity - len(self._waiting) - len(self._working)

    def room(self, waiting: int) -> int:
        """How many of `waiting` observations to admit now: all free places, but none where some would be left over.

        All rows take as many steps, so a full batch that starts together ends together, and is read for less than its
        parts would be. Where more wait than there is room for, the next batch therefore begins when this one ends.
        """
        return 0 if self._working and waiting > self._free else self._free

    def admit(self, key: Hashable, observation: Observation) -> None:
        """Queue an observation for the next step; its answer carries `key`.

        Raises InputError where `capacity` observations are waiting or in work. What is wrong with the observation
        itself comes back from `step`.
        """
        if not self._free:
            raise InputError(f"all {self.capacity} places are taken; call step() until one is free, or ask for more")
        self._waiting.append(Request(key, observation, time.perf_counter()))

    @torch.inference_mode()
    def step(self) -> list[tuple[Hashable, Action | Exception]]:
        """Read what was admitted, choose one more token of every row, and return those that are complete.

        A request that cannot be read comes back as its error; so do all in work if the device fails, which leaves the
        stepper empty and usable.
        """
        failed: list[tuple[Hashable, Action | Exception]] = []
        try:
            self._read(failed)
            self._extend()
            return failed + self._finish()
        except (RuntimeError, MemoryError) as error:
            lost = [*self._waiting, *self._working]
            self._waiting, self._working, self._progress = [], [], None
            return failed + [(request.key, error) for request in lost]

    def _read(self, failed: list[tuple[Hashable, Action | Exception]]) -> None:
        """Prefill the waiting requests into the rows behind those in work."""
        fresh: list[Request] = []
        sights: list[Sight] = []
        for request in self._waiting:
            start = time.perf_counter()
            try:
                request.prompt = self._interpreter.prompt(request.observation.instruction)
                self._engine.check([request.prompt])
                sights.append(sight(request.observation, self._interpreter.pixels))
            except OpenVLAError as error:
                failed.append((request.key, error))
                continue
            request.seconds["preprocess"] = time.perf_counter() - start
            fresh.append(request)
        self._waiting = fresh
        if not fresh:
            return
        marks = [time.perf_counter()]
        patches = embed(self._engine, sights)
        marks.append(time.perf_counter())
        rows = range(len(self._working), len(self._working) + len(fresh))
        nothing = np.zeros((len(fresh), self._engine.count), np.int64)
        self._progress = joined(
            self._progress, self._engine.read([request.prompt for request in fresh], patches, rows, nothing, 0)
        )
        marks.append(time.perf_counter())
        for request in fresh:
            request.remaining = self._engine.count - 1
            request.seconds |= {"vision": marks[1] - marks[0], "prefill": marks[2] - marks[1], "decode": 0.0}
        self._working, self._waiting = self._working + fresh, []

    def _extend(self) -> None:
        """One more token for every row in work."""
        if self._progress is None or not any(request.remaining for request in self._working):
            return
        start = time.perf_counter()
        self._progress = self._engine.extend(self._progress, 1, 1)
        spent = time.perf_counter() - start
        for request in self._working:
            request.remaining = max(0, request.remaining - 1)
            request.seconds["decode"] += spent

    def _finish(self) -> list[tuple[Hashable, Action | Exception]]:
        """Take the complete rows out, last row first, so that each gap is filled by a row that stays."""
        answers: list[tuple[Hashable, Action | Exception]] = []
        for row in reversed(range(len(self._working))):
            if self._working[row].remaining:
                continue
            assert self._progress is not None
            answers.append(self._answer(self._working[row], self._progress, row))
            last = len(self._working) - 1
            self._progress = without(self._progress, row)
            if row != last:
                self._engine.cache.move(last, row)
                self._working[row] = self._working[last]
            self._working.pop()
        return answers[::-1]

    def _answer(self, request: Request, progress: Progress, row: int) -> tuple[Hashable, Action | Exception]:
        start = time.perf_counter()
        tokens, probabilities = progress.tokens[row].cpu().numpy(), progress.probabilities[row].cpu().numpy()
        try:
            values, ids, confidence = self._interpreter.answer(request.prompt, tokens, probabilities)
        except OpenVLAError as error:
            return request.key, error
        now = time.perf_counter()
        seconds = {**request.seconds, "post": now - start, "total": now - request.arrived}
        return request.key, Action(values, ids, confidence, {name: 1000 * value for name, value in seconds.items()})


def joined(first: Progress | None, second: Progress) -> Progress:
    """The rows of `first`, then those of `second`."""
    if first is None:
        return second
    return Progress(
        torch.cat([first.tokens, second.tokens]),
        torch.cat([first.probabilities, second.probabilities]),
        torch.cat([first.count, second.count]),
        torch.cat([first.length, second.length]),
    )


def without(progress: Progress, row: int) -> Progress | None:
    """All rows but `row`, whose place the last row takes; None where that leaves none."""
    last = len(progress.tokens) - 1
    if not last:
        return None

    def compact(tensor: Tensor) -> Tensor:
        kept = tensor[:last].clone()
        if row != last:
            kept[row] = tensor[last]
        return kept

    return Progress(*map(compact, (progress.tokens, progress.probabilities, progress.count, progress.length)))
