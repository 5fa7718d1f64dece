"""A policy that lives on another machine: every action is asked of a server, over HTTP or a WebSocket.

An address with http:// speaks the published `POST /act`; each request stands alone. One with ws:// speaks openpi's
protocol over a connection that is kept, sends further cameras and proprioception too, and needs the packages of the
extra `client`. Servers of this package say what their actions mean; others are taken to follow the published 7-D
convention. Needs numpy, and neither torch nor anything else of the package.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from openvla.errors import ServerError, UsageError
from openvla.serve.link import HttpLink, Link, LostConnection, Overloaded, SocketLink
from openvla.spec import Action, ActionSpec, Observation, conventional_spec

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


class RemotePolicy:
    """`Policy` over the network.

    url: of the server: "http://host:8000", with or without "/act"; or "ws://host:8000"; https and wss likewise.
    spec: what the server's actions mean; None asks the server, and takes the 7-D convention where it cannot say.
    statistics: the `unnorm_key` to send, needed where the server's checkpoint has several.
    api_key: sent as authorisation, where the server wants one. robot: a name for this robot, for servers of many.
    timeout_s: longest wait for one action, further attempts included.
    retries: further attempts, after a growing pause, where the connection is lost or the server is overloaded.

    Raises UsageError for a URL of another kind and numbers out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        spec: ActionSpec | None = None,
        statistics: str | None = None,
        api_key: str | None = None,
        robot: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 0,
    ) -> None:
        scheme = _scheme(url)
        if scheme not in ("http", "https", "ws", "wss"):
            raise UsageError(
                f"{url!r} is not the address of a policy server; write it as http://host:8000 or ws://host:8000"
            )
        if not timeout_s > 0:
            raise UsageError(f"timeout_s is {timeout_s}; it must be positive")
        if retries < 0:
            raise UsageError(f"retries is {retries}; give a number from 0")
        self._link: Link = (HttpLink if scheme.startswith("http") else SocketLink)(url, api_key)
        self.url = self._link.url
        self.statistics = statistics
        self.timeout_s = timeout_s
        self.retries = retries
        self._robot = robot
        self._spec = spec

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean. Asks the server on first use; raises ServerError if it cannot be reached."""
        if self._spec is None:
            self._spec = self._link.spec(self.timeout_s) or conventional_spec(7)
        return self._spec

    def act(self, observation: Observation) -> Action:
        """The server's action for one observation; `timing_ms` holds the round trip as "total".

        Raises ServerError if the server cannot be reached in time, refuses, or answers what fits no `spec`.
        """
        start = time.monotonic()
        end, pause_s = start + self.timeout_s, FIRST_PAUSE_S
        message = self._message(observation)
        for attempt in range(self.retries + 1):
            try:
                answer = self._link.ask(message, max(1e-3, end - time.monotonic()))
                return self._action(answer, 1e3 * (time.monotonic() - start))
            except (LostConnection, Overloaded) as error:
                pause_s = max(pause_s, getattr(error, "retry_after_s", 0.0) if isinstance(error, Overloaded) else 0.0)
                if attempt == self.retries or time.monotonic() + pause_s > end:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # so that robots that lost one server do not return as one
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        raise AssertionError("the last attempt returns or raises")

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        """One action per observation, asked for one after the other."""
        return [self.act(observation) for observation in observations]

    def reset(self) -> None:
        """Nothing to forget: what the server keeps of a robot is for its safety."""

    def close(self) -> None:
        """Close the connection; the next question opens it again."""
        self._link.close()

    def _message(self, observation: Observation) -> dict[str, object]:
        message: dict[str, object] = {"image": observation.image, "instruction": observation.instruction}
        if self.statistics is not None:
            message["unnorm_key"] = self.statistics
        if self._robot is not None:
            message["robot"] = self._robot
        if isinstance(self._link, SocketLink):
            if observation.extra_images:
                message["extra_images"] = dict(observation.extra_images)
            if observation.proprio is not None:
                message["proprio"] = observation.proprio
        return message

    def _action(self, answer: Any, total_ms: float) -> Action:
        """The action in a decoded answer: an array, a list, or an object with the details."""
        details = cast("Mapping[str, Any]", answer) if isinstance(answer, Mapping) else {"values": answer}
        values = _numbers(details.get("values", details.get("actions")))
        if values is None and "values" not in details and "actions" not in details:
            said = details.get("error", "an object without actions")
            raise ServerError(f"the policy server at {self.url} answered: {said}; correct the request or see its log")
        if values is None or values.ndim not in (1, 2) or not len(values) or values.shape[-1] != self.spec.dim:
            shown = f"values of shape {values.shape}" if values is not None else repr(answer)[:80]
            raise ServerError(
                f"the policy server at {self.url} answered {shown}, but the actions of this policy have the shape "
                f"(chunk, {self.spec.dim}); pass the spec of its actions to RemotePolicy, or fix the server"
            )
        values = np.atleast_2d(values)
        tokens, confidence = _like(values, details.get("tokens")), _like(values, details.get("confidence"))
        return Action(
            values, None if tokens is None else tokens.astype(np.int64), confidence, _timing(details, total_ms)
        )


def _scheme(url: str) -> str:
    """The scheme of a URL that also names a host, else ""."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc else ""


def _numbers(answer: object) -> NDArray[np.float64] | None:
    """`answer` as a float64 array, or None if it is not all finite numbers."""
    try:
        values = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None


def _like(values: NDArray[np.float64], extra: object) -> NDArray[np.float64] | None:
    """`extra` as an array of the shape of `values`, or None if it is none."""
    found = None if extra is None else _numbers(extra)
    return found if found is not None and found.shape == values.shape else None


def _timing(details: Mapping[str, Any], total_ms: float) -> dict[str, float]:
    """The server's own times under "server/...", and the round trip as "total"."""
    given: object = details.get("timing_ms", details.get("server_timing"))
    server = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
    found = {
        f"server/{str(name).removeprefix('server/').removesuffix('_ms')}": float(value)
        for name, value in server.items()
        if isinstance(value, int | float)
    }
    return found | {"total": total_ms}
