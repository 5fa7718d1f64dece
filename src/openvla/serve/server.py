"""From a policy and settings to a server that runs: what `openvla serve` does.

The address is taken before anything slow happens, so that a port in use or a missing key is told at once; nothing is
accepted until the policy is there, and nothing is answered until it has warmed up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openvla.errors import UsageError, require
from openvla.serve.audit import Audit
from openvla.serve.guard.limits import Limits
from openvla.serve.guard.safety import Guard, SafetyRules, read_rules, rules_of
from openvla.serve.guard.security import Keys, RateLimit, check_exposure, read_keys
from openvla.serve.queue.batching import make_stepper
from openvla.serve.queue.scheduler import Scheduler
from openvla.serve.served import Served
from openvla.spec import ActionSpec, Observation

if TYPE_CHECKING:
    from openvla.serve.listener import Listener
    from openvla.serve.service import Service
    from openvla.serve.watch.demo import Demo

PACKAGES = ("starlette", "uvicorn", "websockets", "msgpack", "prometheus_client")
BACKLOG = 256


@dataclass(frozen=True)
class Settings:
    """How to serve.

    batch: most actions computed together. queue: most requests that wait. deadline_s: see `Scheduler`.
    rate: requests per second and key (without keys: and address), or None. safety: a file for `read_rules`, or None.
    min_confidence, max_age_s: see `SafetyRules`. certificate, certificate_key: PEM files, both or none.
    drain_s: longest time from the signal to the end.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    batch: int = 16
    queue: int = 64
    deadline_s: float | None = None
    rate: float | None = None
    safety: Path | None = None
    min_confidence: float = 0.0
    max_age_s: float = float("inf")
    key_file: Path | None = None
    insecure: bool = False
    certificate: Path | None = None
    certificate_key: Path | None = None
    audit: Path | None = None
    drain_s: float = 10.0
    limits: Limits = field(default_factory=Limits)


class Server:
    """An address that is taken; `serve` answers on it.

    Raises UsageError for settings that make no sense and an address that cannot be taken, MissingDependencyError
    without the packages of the extra `serve`.
    """

    def __init__(self, settings: Settings) -> None:
        _check(settings)
        for package in PACKAGES:
            require(package, "serve")
        self.settings = settings
        self.keys: Keys = read_keys(settings.key_file)
        check_exposure(settings.host, self.keys, insecure=settings.insecure)
        _check_certificate(settings)
        self._audit = Audit(settings.audit)
        self._socket = _listen_on(settings.host, settings.port)
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._socket.getsockname()[:2]
        scheme = "http" if self.settings.certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def serve(
        self, served: Served, demo: Demo | None = None, *, started: Callable[[Service], None] | None = None
    ) -> dict[str, int]:
        """Answer until SIGTERM, SIGINT or `stop`; `started` is called once connections are taken.

        Returns how many requests were "answered" and "refused".
        """
        from openvla.serve.app import build_app
        from openvla.serve.listener import Listener, configure

        settings = self.settings
        service = build_service(served, settings, self.keys, self._audit)
        config = configure(build_app(service, demo), settings.limits, settings.certificate, settings.certificate_key)
        self._listener = Listener(config, service, settings.drain_s, demo)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # every malformed request would be a line there
        try:
            service.scheduler.start(gray(served.policy.spec))
            asyncio.run(self._listener.listen(self._socket, started))
            service.scheduler.join(1.0)
            return service.live.counts()
        finally:
            self.close()

    def stop(self) -> None:
        """Leave as after SIGTERM; from any thread."""
        if self._listener is not None:
            self._listener.should_exit = True

    def close(self) -> None:
        """Give the address back."""
        self._socket.close()
        self._audit.close()


def build_service(served: Served, settings: Settings, keys: Keys, audit: Audit | None) -> Service:
    """The service that `settings` describe; its scheduler is not started."""
    from openvla.serve.service import Service

    scheduler = Scheduler(
        lambda: make_stepper(served.policy, settings.batch), queue=settings.queue, deadline_s=settings.deadline_s
    )
    spec = served.policy.spec
    guard = Guard(_rules(settings, spec), spec.names)
    rate = RateLimit(settings.rate)
    return Service(served, scheduler, guard, limits=settings.limits, keys=keys, rate=rate, audit=audit)


def _rules(settings: Settings, spec: ActionSpec) -> SafetyRules:
    rules = rules_of(spec) if settings.safety is None else read_rules(settings.safety, spec)
    return replace(rules, min_confidence=settings.min_confidence, max_age_s=settings.max_age_s)


def _check(settings: Settings) -> None:
    """Raise UsageError for numbers out of their range."""
    rules = (
        ("port", settings.port, 0 <= settings.port < 65536, "a number from 0 (any free one) to 65535"),
        ("batch", settings.batch, settings.batch > 0, "a number from 1"),
        ("queue", settings.queue, settings.queue > 0, "a number from 1"),
        ("deadline", settings.deadline_s, settings.deadline_s is None or settings.deadline_s > 0, "seconds above 0"),
        ("rate limit", settings.rate, settings.rate is None or settings.rate > 0, "requests per second, above 0"),
        ("minimum confidence", settings.min_confidence, 0 <= settings.min_confidence <= 1, "a probability, 0 to 1"),
        ("maximum age", settings.max_age_s, settings.max_age_s > 0, "seconds above 0"),
        ("drain time", settings.drain_s, settings.drain_s > 0, "seconds above 0"),
    )
    for name, value, fits, rule in rules:
        if not fits:
            raise UsageError(f"the {name} is {value}; give {rule}")
    if (settings.certificate is None) != (settings.certificate_key is None):
        raise UsageError("TLS needs both a certificate and its key; give --tls-cert and --tls-key")


def _check_certificate(settings: Settings) -> None:
    if settings.certificate is None or settings.certificate_key is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.certificate, settings.certificate_key, password=""
        )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"cannot use the certificate {settings.certificate} with the key {settings.certificate_key}: {error}; give "
            "PEM files that belong together, the key without a password"
        ) from error


def _listen_on(host: str, port: int) -> socket.socket:
    """A socket with the address; connections are taken only when the server runs."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small replies at once only where the protocol is named; else each waits 40 ms for company.
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {host!r}: {error}; give an address of this machine") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}; choose another with --port"
        ) from error
    return found


def gray(spec: ActionSpec) -> Observation:
    """Something to warm up on."""
    return Observation(np.full((224, 224, 3), 128, np.uint8), "wait", proprio=np.zeros(spec.dim))
