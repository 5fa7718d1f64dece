"""How a client reaches a server: one question and its answer over HTTP, or over a WebSocket that is kept.

A published server reports any failure as the JSON string "error" with status 200; others send {"error": sentence}, or,
over a WebSocket, the sentence as text. All of it raises here, as one sentence.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol, cast

from openvla.errors import InputError, ServerError, require
from openvla.serve.protocols import packing, wire
from openvla.serve.served import spec_from_dict
from openvla.spec import ActionSpec

LONGEST_ANSWER = 1 << 24
"""Bytes read of one answer, far above any action chunk: something that sends without end does not fill the memory."""

ACCEPT = "application/vnd.openvla+json, application/json"
NO_METADATA = (404, 405, 501)


class LostConnection(ServerError):  # noqa: N818 - names what happened
    """The server cannot be reached, or went away; another attempt may find it."""


class Overloaded(ServerError):  # noqa: N818 - names what happened
    """The server has no room now; `retry_after_s` is when it expects to."""

    retry_after_s: float = 0.0


class Link(Protocol):
    """One way to reach a server."""

    url: str

    def __init__(self, url: str, api_key: str | None) -> None: ...

    def ask(self, message: Mapping[str, object], timeout_s: float) -> Any:
        """The decoded answer. Raises ServerError, of which LostConnection and Overloaded may be tried again."""
        ...

    def spec(self, timeout_s: float) -> ActionSpec | None:
        """What the server says of its actions, or None where it does not say. Raises ServerError."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class HttpLink:
    """The published `POST /act`."""

    def __init__(self, url: str, api_key: str | None) -> None:
        base = url.rstrip("/").removesuffix("/act")
        self.url = base + "/act"
        self._metadata = base + "/metadata"
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        # Policy servers stand in the lab's own network; the system's web proxy has no route to them.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, message: Mapping[str, object], timeout_s: float) -> Any:
        """One request."""
        headers = {"Content-Type": "application/json", "Accept": ACCEPT}
        answer = self._loads(self._send(self.url, wire.dumps(message), headers, timeout_s))
        if isinstance(answer, str) and answer != "error":
            answer = self._loads(answer.encode())
        if isinstance(answer, str):
            raise ServerError(
                f"the policy server at {self.url} answered {answer!r} and gives no reason; see its log, and check that "
                f"the statistics asked for, {message.get('unnorm_key')!r}, are among its checkpoint's"
            )
        return answer

    def spec(self, timeout_s: float) -> ActionSpec | None:
        """From /metadata; a published server has none."""
        try:
            return _spec(self._loads(self._send(self._metadata, None, {}, timeout_s)), self.url)
        except ServerError as error:
            cause = error.__cause__
            if isinstance(cause, urllib.error.HTTPError) and cause.code in NO_METADATA:
                return None
            raise

    def close(self) -> None:
        """Nothing is kept open."""

    def _send(self, url: str, body: bytes | None, headers: dict[str, str], timeout_s: float) -> bytes:
        request = urllib.request.Request(url, body, {**headers, **self._headers})
        try:
            with self._opener.open(request, timeout=timeout_s) as reply:
                return reply.read(LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ServerError(too_slow(self.url, timeout_s)) from error
            raise LostConnection(unreachable(self.url, reason)) from error

    def _loads(self, data: bytes) -> Any:
        try:
            return wire.loads(data)
        except InputError as error:
            raise ServerError(
                f"the answer of {self.url} is no message of the /act protocol: {error}; is it a policy server?"
            ) from error

    def _refusal(self, error: urllib.error.HTTPError) -> ServerError:
        """For an HTTP status of 400 and above, with the server's own words where it sent some."""
        try:
            answer = wire.loads(error.read(LONGEST_ANSWER))
        except (InputError, OSError, http.client.HTTPException):
            answer = None
        fields = cast("Mapping[str, object]", answer) if isinstance(answer, Mapping) else {}
        sentence = (
            f"the policy server at {self.url} refused the request with status {error.code}: "
            f"{fields.get('error') or error.reason}; correct the request, or see the server's log"
        )
        if error.code not in (429, 503):
            return ServerError(sentence)
        refusal, after = Overloaded(sentence), fields.get("retry_after_s")
        refusal.retry_after_s = float(after) if isinstance(after, int | float) else 0.0
        return refusal


class SocketLink:
    """The protocol of openpi: the server's metadata first, then msgpack maps both ways. Opened on first use."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._client: Any = require("websockets.sync.client", "client")
        self._exceptions: Any = require("websockets.exceptions", "client")
        require("msgpack", "client")
        self._open = contextlib.ExitStack()
        self._socket: Any = None
        self._said: object = None
        self.sent_bytes = 0

    def ask(self, message: Mapping[str, object], timeout_s: float) -> Any:
        """One message and its answer, over a new connection where there is none."""
        answer = self._try(lambda: self._exchange(packing.pack(message, "openpi"), timeout_s), timeout_s)
        if isinstance(answer, str):
            kind = Overloaded if "try again" in answer else ServerError
            raise kind(f"the policy server at {self.url} refused the request: {answer}")
        return self._unpack(answer)

    def spec(self, timeout_s: float) -> ActionSpec | None:
        """From the server's metadata; openpi's own servers say nothing of the kind."""
        self._try(lambda: self._connect(timeout_s), timeout_s)
        return _spec(self._said, self.url)

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known."""
        return self._socket is not None

    def greeting(self, timeout_s: float) -> Mapping[str, Any]:
        """The server's metadata; empty where it has none. Connects where that is needed. Raises ServerError."""
        self._try(lambda: self._connect(timeout_s), timeout_s)
        return cast("Mapping[str, Any]", self._said) if isinstance(self._said, Mapping) else {}

    def ping(self, timeout_s: float) -> float:
        """Seconds there and back. Raises ServerError."""

        def there_and_back() -> float:
            self._connect(timeout_s)
            start = time.monotonic()
            if not self._socket.ping().wait(timeout_s):
                raise TimeoutError
            return time.monotonic() - start

        return self._try(there_and_back, timeout_s)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._socket = None
        self._open.close()

    def _exchange(self, data: bytes, timeout_s: float) -> bytes | str:
        self._connect(timeout_s)
        self.sent_bytes = len(data)
        self._socket.send(data)
        return self._socket.recv(timeout=timeout_s)

    def _connect(self, timeout_s: float) -> None:
        if self._socket is not None:
            return
        self._socket = self._open.enter_context(
            self._client.connect(
                self.url,
                compression=None,
                max_size=LONGEST_ANSWER,
                open_timeout=timeout_s,
                close_timeout=1.0,
                proxy=None,
                additional_headers=self._headers,
            )
        )
        self._said = self._unpack(self._socket.recv(timeout=timeout_s))

    def _try(self, work: Any, timeout_s: float) -> Any:
        """Do `work`; whatever fails closes the connection, since an answer that comes later would be another's."""
        try:
            return work()
        except BaseException as error:
            with contextlib.suppress(Exception):
                self.close()
            if isinstance(error, TimeoutError):
                raise ServerError(too_slow(self.url, timeout_s)) from error
            if isinstance(error, self._exceptions.InvalidStatus):
                raise self._denied(error) from error
            if isinstance(error, OSError | self._exceptions.WebSocketException | socket.gaierror):
                raise LostConnection(unreachable(self.url, error)) from error
            raise

    def _denied(self, error: Any) -> ServerError:
        """For a handshake that the server answered with an HTTP error."""
        try:
            said = wire.loads(error.response.body).get("error")
        except (InputError, AttributeError, TypeError):
            said = error.response.reason_phrase
        status = error.response.status_code
        return (Overloaded if status in (429, 503) else ServerError)(
            f"the policy server at {self.url} refused the connection with status {status}: {said}"
        )

    def _unpack(self, data: bytes | str) -> object:
        try:
            return packing.unpack(data if isinstance(data, bytes) else data.encode())
        except InputError as error:
            raise ServerError(
                f"the answer of {self.url} is no message of openpi's protocol: {error}; is it a policy server?"
            ) from error


def too_slow(url: str, timeout_s: float) -> str:
    """The sentence for an answer that did not come."""
    return f"no answer from the policy server at {url} in {timeout_s:.3g} s; check its load or raise timeout_s"


def unreachable(url: str, reason: object) -> str:
    """The sentence for a server that is not there."""
    return f"no answer from the policy server at {url} ({reason}); check that it runs and listens there"


def _spec(said: object, url: str) -> ActionSpec | None:
    """The action spec in a server's metadata, or None where it has none. Raises ServerError for a damaged one."""
    action = cast("Mapping[str, object]", said).get("action") if isinstance(said, Mapping) else None
    if not isinstance(action, dict):
        return None
    try:
        return spec_from_dict(cast("dict[str, Any]", action))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            f"the policy server at {url} describes its actions in a way that is not understood ({error}); pass the "
            "spec of its actions to RemotePolicy"
        ) from error
