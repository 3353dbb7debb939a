"""Metrics of the webhook. Reasons are constants of the code; one metric names objects, up to a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from oneagent.common import prometheus
from oneagent.common.injection import skip_reasons
from oneagent.common.kubernetes import watch_silence

MAX_PAIRS: Final = 1000
"""Pairs of DynaKube and namespace that have series of their own; all others share one with empty labels."""

_MISSED: Final = frozenset(
    skip.reason
    for skip in vars(skip_reasons).values()
    if isinstance(skip, skip_reasons.SkipReason) and skip.visibility is skip_reasons.Visibility.WARN
)
"""Reasons for which a pod has no agent though it should have one"""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        prometheus.add_build_info("webhook", registry)
        self.requests = Counter(
            "oneagent_webhook_requests",
            "Requests of API servers, by path, outcome and reason.",
            ["path", "outcome", "reason"],
            registry=registry,
        )
        self._pods = Counter(
            "oneagent_webhook_pods",
            "Admitted pods of namespaces with a DynaKube, by outcome: injected, missed, or excluded on purpose.",
            ["dynakube", "pod_namespace", "outcome"],
            registry=registry,
        )
        self._pairs = set[tuple[str, str]]()
        self.seconds = Histogram(
            "oneagent_webhook_request_duration_seconds",
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
            "oneagent_webhook_certificate_expiration_timestamp_seconds",
            "Expiry of the certificate in use, in seconds since 1970; 0 without a certificate.",
            registry=registry,
        )
        self.watch_silence = watch_silence.create_gauge("webhook", registry)
        self._synced = Gauge(
            "oneagent_webhook_caches_synced", "1 after every watch has read its first list, else 0.", registry=registry
        )

    def watch_synced(self, synced: Callable[[], bool]) -> None:
        self._synced.set_function(lambda: float(synced()))

    def count_pod(self, dynakube: str, namespace: str, outcome: str, reason: str) -> None:
        """Count an admitted pod; `outcome` and `reason` are those of the decision."""
        pair = (dynakube, namespace)
        if pair not in self._pairs:
            if len(self._pairs) < MAX_PAIRS:
                self._pairs.add(pair)
            else:
                pair = ("", "")
        missed = outcome == "error" or reason in _MISSED
        self._pods.labels(*pair, "injected" if outcome == "injected" else "missed" if missed else "excluded").inc()
