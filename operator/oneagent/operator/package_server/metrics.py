"""Metrics of the package server. No label has a client, a version or a path as its value."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class PackageMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "oneagent_operator_package_requests",
            "Requests for packages, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.sent_bytes = Counter("oneagent_operator_package_sent_bytes", "Bytes of packages sent.", registry=registry)
        self.transfers = Gauge(
            "oneagent_operator_package_transfers", "Running transfers of packages.", registry=registry
        )
        self.downloads = Counter(
            "oneagent_operator_package_downloads",
            "Downloads from tenants, by result.",
            ["result"],
            registry=registry,
        )
        self.download_seconds = Histogram(
            "oneagent_operator_package_download_duration_seconds",
            "Duration of downloads from tenants, in seconds.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stored_bytes = Gauge(
            "oneagent_operator_package_stored_bytes", "Size of all cached packages.", registry=registry
        )
        self.evictions = Counter(
            "oneagent_operator_package_evictions", "Packages removed from the cache to make room.", registry=registry
        )
        self.reviews = Counter(
            "oneagent_operator_token_reviews",
            "TokenReview requests to the API server, by result.",
            ["result"],
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "oneagent_operator_package_certificate_expiration_timestamp_seconds",
            "Expiry of the certificate in use, in seconds since 1970.",
            registry=registry,
        )
