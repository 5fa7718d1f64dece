"""What Prometheus reads at /metrics. Labels have few values: never a robot, an address or an instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openvla.errors import require
from openvla.serve.guard.safety import Flags

BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Upper ends of the bins of all latencies, here and in the page."""


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        prometheus: Any = require("prometheus_client", "serve")
        self._prometheus = prometheus
        self._registry: Any = prometheus.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"openvla_{name}", text, labels, registry=self._registry)

        self._requests = counter("requests", "Requests by protocol and HTTP status.", "protocol", "status")
        self._refused = counter("refused", "Requests without an action, by reason.", "reason")
        self._clipped = counter("actions_clipped", "Actions clipped to the range, by dimension.", "dimension")
        self._slowed = counter("actions_slowed", "Actions limited in their change, by dimension.", "dimension")
        self._held = counter("actions_held", "Actions replaced by the fallback, by reason.", "reason")
        self._seconds = prometheus.Histogram(
            "openvla_request_seconds",
            "Time of answered requests, by phase.",
            ("phase",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        self._prometheus.Gauge(f"openvla_{name}", text, registry=self._registry).set_function(read)

    def answered(self, protocol: str, seconds: dict[str, float], flags: Flags) -> None:
        """Count one action; `seconds` by phase."""
        self._requests.labels(protocol, "200").inc()
        for phase, value in seconds.items():
            self._seconds.labels(phase).observe(value)
        for name in flags.clipped:
            self._clipped.labels(name).inc()
        for name in flags.slowed:
            self._slowed.labels(name).inc()
        if flags.held:
            self._held.labels(flags.held).inc()

    def refused(self, protocol: str, status: int, reason: str) -> None:
        """Count one refusal."""
        self._requests.labels(protocol, str(status)).inc()
        self._refused.labels(reason).inc()

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type."""
        return self._prometheus.generate_latest(self._registry), self._prometheus.CONTENT_TYPE_LATEST
