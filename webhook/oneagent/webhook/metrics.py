"""What the webhook counts. No label takes a name of an object: reasons are constants of the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "oneagent_webhook_requests",
            "Requests of API servers, by what was decided and why.",
            ["path", "outcome", "reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "oneagent_webhook_request_seconds",
            "Seconds from a request's head to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.events = Counter(
            "oneagent_webhook_events",
            "Events for people, by what became of them: written, failed, or dropped as there were too many.",
            ["outcome"],
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "oneagent_webhook_certificate_expiry_seconds",
            "When the certificate in use ends, in seconds since 1970; 0 without one.",
            registry=registry,
        )
        self._synced = Gauge(
            "oneagent_webhook_caches_synced", "Whether all that is watched has been read once.", registry=registry
        )

    def watch_synced(self, synced: Callable[[], bool]) -> None:
        self._synced.set_function(lambda: float(synced()))
