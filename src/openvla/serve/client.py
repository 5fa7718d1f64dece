"""A policy that lives on another machine: asks a server of the published `POST /act` protocol for every action.

The protocol carries one image and the instruction; further cameras and proprioception are not sent. It has no session:
every request stands alone, and a restarted server is simply found again. A published server reports any failure
as the JSON string "error" with status 200; other servers send {"error": sentence}. Both raise here.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla.errors import InputError, ServerError, UsageError
from openvla.serve import wire
from openvla.spec import Action, ActionSpec, Observation, conventional_spec

LONGEST_ANSWER = 1 << 24
"""Bytes read of one answer, far above any action chunk: something that sends without end does not fill the memory."""


class RemotePolicy:
    """`Policy` over HTTP.

    url: of the server, "http://host:8000", with or without "/act".
    spec: what the server's actions mean; None takes the 7-D convention of published checkpoints.
    statistics: the `unnorm_key` to send, needed where the server's checkpoint has several.
    timeout_s: longest wait for one answer.

    Raises UsageError for a URL that is not http(s) and a timeout that is not positive.
    """

    def __init__(
        self, url: str, *, spec: ActionSpec | None = None, statistics: str | None = None, timeout_s: float = 10.0
    ) -> None:
        if not _is_http(url):
            raise UsageError(f"{url!r} is not the address of a policy server; write it as http://host:8000")
        if not timeout_s > 0:
            raise UsageError(f"timeout_s is {timeout_s}; it must be positive")
        self.url = url.rstrip("/").removesuffix("/act") + "/act"
        self.statistics = statistics
        self.timeout_s = timeout_s
        self._spec = conventional_spec(7) if spec is None else spec
        # Policy servers stand in the lab's own network; the system's web proxy has no route to them.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def spec(self) -> ActionSpec:
        """What the actions mean."""
        return self._spec

    def act(self, observation: Observation) -> Action:
        """The server's action for one observation; `timing_ms` holds the round trip as "total".

        Raises ServerError if the server cannot be reached in time, reports an error, or answers what fits no `spec`.
        """
        start = time.perf_counter()
        message: dict[str, object] = {"image": observation.image, "instruction": observation.instruction}
        if self.statistics is not None:
            message["unnorm_key"] = self.statistics
        values = self._values(self._post(wire.dumps(message)))
        return Action(values, timing_ms={"total": (time.perf_counter() - start) * 1e3})

    def act_batch(self, observations: Sequence[Observation]) -> list[Action]:
        """One action per observation, asked for one after the other."""
        return [self.act(observation) for observation in observations]

    def reset(self) -> None:
        """Nothing to forget: the server keeps no episode."""

    def _post(self, body: bytes) -> Any:
        """The decoded answer to `body`."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=self.timeout_s) as reply:
                return self._loads(reply.read(LONGEST_ANSWER))
        except urllib.error.HTTPError as error:
            raise ServerError(self._refusal(error)) from error
        except TimeoutError as error:
            raise ServerError(self._too_slow()) from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ServerError(self._too_slow()) from error
            raise ServerError(
                f"no answer from the policy server at {self.url} ({reason}); check that it runs and listens there"
            ) from error

    def _loads(self, data: bytes) -> Any:
        try:
            return wire.loads(data)
        except InputError as error:
            raise ServerError(
                f"the answer of {self.url} is no message of the /act protocol: {error}; is it a policy server?"
            ) from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """The sentence for an HTTP status of 400 and above, with the server's own words where it sent some."""
        try:
            answer = wire.loads(error.read(LONGEST_ANSWER))
        except (InputError, OSError, http.client.HTTPException):
            answer = None
        said = cast("Mapping[str, object]", answer).get("error") if isinstance(answer, Mapping) else None
        return (
            f"the policy server at {self.url} refused the request with status {error.code}: {said or error.reason}; "
            "correct the request, or see the server's log"
        )

    def _too_slow(self) -> str:
        return (
            f"no answer from the policy server at {self.url} in {self.timeout_s} s; check its load or raise timeout_s"
        )

    def _values(self, answer: Any) -> NDArray[np.float64]:
        """float64 (chunk, dim) of a decoded answer: an array, a list, or either as JSON within a string."""
        if isinstance(answer, str) and answer != "error":
            answer = self._loads(answer.encode())
        if isinstance(answer, str):
            raise ServerError(
                f"the policy server at {self.url} answered {answer!r} and gives no reason; see its log, and check that "
                f"the statistics asked for, {self.statistics!r}, are among its checkpoint's"
            )
        if isinstance(answer, Mapping):
            said = cast("Mapping[str, object]", answer).get("error", "an object without actions")
            raise ServerError(f"the policy server at {self.url} answered: {said}; correct the request or see its log")
        values = _numbers(answer)
        if values is None or values.ndim not in (1, 2) or values.shape[-1] != self.spec.dim:
            shown = repr(answer)[:80] if values is None else f"values of shape {values.shape}"
            raise ServerError(
                f"the policy server at {self.url} answered {shown}, but the actions of this policy have the shape "
                f"(chunk, {self.spec.dim}); pass the spec of its actions to RemotePolicy, or fix the server"
            )
        return np.atleast_2d(values)


def _is_http(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _numbers(answer: object) -> NDArray[np.float64] | None:
    """`answer` as a float64 array, or None if it is not all finite numbers."""
    try:
        values = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        return None
    return values if np.isfinite(values).all() else None
