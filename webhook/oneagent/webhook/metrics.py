"""Metrics of the webhook. Labels have no names of objects; reasons are constants of the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from oneagent.common.kubernetes import watch_silence

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "oneagent_webhook_requests",
            "Requests of API servers, by path, outcome and reason.",
            ["path", "outcome", "reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "oneagent_webhook_request_seconds",
            "Seconds from a request's headers to its response.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.events = Counter(
            "oneagent_webhook_events",
            "Kubernetes Events: written, failed, or dropped by the rate limit.",
            ["outcome"],
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "oneagent_webhook_certificate_expiry_seconds",
            "Expiry of the certificate in use, in seconds since 1970; 0 without a certificate.",
            registry=registry,
        )
        self.watch_silence = watch_silence.create_gauge("webhook", registry)
        self._synced = Gauge(
            "oneagent_webhook_caches_synced", "1 after every watch has read its first list, else 0.", registry=registry
        )

    def watch_synced(self, synced: Callable[[], bool]) -> None:
        self._synced.set_function(lambda: float(synced()))
