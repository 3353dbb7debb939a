"""The server's metrics. No label has unbounded values such as volumes, pods or paths; `coverage` limits its own."""

from __future__ import annotations

from oneagent.common import prometheus
from oneagent.common.prometheus import Counter, Gauge, Histogram
from oneagent.csi_driver.server.coverage import Coverage

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerMetrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = prometheus.create_registry("server")
        self.calls = Histogram(
            "oneagent_csi_call_duration_seconds",
            "Duration of CSI calls in seconds, by method and result.",
            ["method", "result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.empty_views = Counter(
            "oneagent_csi_empty_views",
            "Pods started with an empty view because no agent was available.",
            registry=self.registry,
        )
        self.failed_attempts = Counter(
            "oneagent_csi_failed_mount_attempts",
            "Publish calls that failed with UNAVAILABLE and counted against the volume's retry limit.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "oneagent_csi_waiting_publishes",
            "Publish calls that currently wait for their version.",
            registry=self.registry,
        )
        self.volumes = Gauge(
            "oneagent_csi_volumes", "Volumes of this node, by state.", ["state"], registry=self.registry
        )
        self.unwritten = Gauge(
            "oneagent_csi_metadata_unwritten_volumes",
            "Volumes whose newest state is only in memory because the database is not writable.",
            registry=self.registry,
        )
        self.database = Histogram(
            "oneagent_csi_metadata_transaction_duration_seconds",
            "Duration of metadata transactions in seconds, including lock waits.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.coverage = Coverage()
        self.registry.register(self.coverage)
