"""The first actions, before anybody asks: whatever is allocated or compiled on first use is, and the pace is known."""

from __future__ import annotations

import logging
import time

import numpy as np

from openvla.serve.queue.batching import Stepper
from openvla.serve.queue.pace import Pace
from openvla.spec import Observation

OTHER_SIZES_S = 5.0

log = logging.getLogger("openvla.serve")


def warm_up(stepper: Stepper, observation: Observation, pace: Pace) -> None:
    """Run batches of 1, 2, 4, ... and of all there is room for, twice, so that `pace` learns; then the sizes between.

    Libraries keep a plan and buffers for each size they meet; met under load, that would look like a leak. A slow
    policy skips those that do not fit into OTHER_SIZES_S. Raises what the policy raises.
    """
    measured = sizes(stepper.capacity)
    for together in measured:
        _time_round(stepper, observation, together)
        pace.learn(together, _time_round(stepper, observation, together))
    end = time.monotonic() + OTHER_SIZES_S
    for together in sorted(set(range(1, stepper.capacity)) - set(measured)):
        if time.monotonic() + pace.seconds(together) > end:
            return
        _time_round(stepper, observation, together)


def sizes(capacity: int) -> list[int]:
    """1, 2, 4, ... and the capacity itself."""
    return [*(2**n for n in range(capacity.bit_length()) if 2**n < capacity), capacity]


def _time_round(stepper: Stepper, observation: Observation, together: int) -> float:
    """Seconds until `together` observations, admitted at once, are all answered."""
    start = time.monotonic()
    for key in range(together):
        stepper.admit(("warm-up", key), observation)
    left = together
    while left:
        for _, outcome in stepper.step():
            left -= 1
            if isinstance(outcome, Exception):
                raise outcome
            if not np.isfinite(outcome.values).all():
                log.warning("the policy answers NaN or infinity at warm-up; such actions are held")
    return time.monotonic() - start
