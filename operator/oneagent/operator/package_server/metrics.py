"""What the package endpoint counts. No label takes a caller, a version or a path as its value."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class PackageMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "oneagent_operator_package_requests",
            "Requests for packages, by how they ended.",
            ["outcome"],
            registry=registry,
        )
        self.sent_bytes = Counter(
            "oneagent_operator_package_sent_bytes", "Bytes of packages that were sent.", registry=registry
        )
        self.transfers = Gauge(
            "oneagent_operator_package_transfers", "Packages that are being sent.", registry=registry
        )
        self.downloads = Counter(
            "oneagent_operator_package_downloads",
            "Downloads from tenants, by how they ended.",
            ["result"],
            registry=registry,
        )
        self.download_seconds = Histogram(
            "oneagent_operator_package_download_seconds",
            "Seconds that downloads from tenants took.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stored_bytes = Gauge(
            "oneagent_operator_package_stored_bytes", "Size of all packages that are kept.", registry=registry
        )
        self.evictions = Counter(
            "oneagent_operator_package_evictions", "Packages that made room for others.", registry=registry
        )
        self.reviews = Counter(
            "oneagent_operator_token_reviews",
            "Questions to the API server about callers, by its answer.",
            ["result"],
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "oneagent_operator_package_certificate_expiry_seconds",
            "When the certificate in use ends, in seconds since 1970.",
            registry=registry,
        )
