"""What the server counts. No label takes a value that grows without bound: no volume, pod or path is one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerMetrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Histogram(
            "oneagent_csi_call_seconds",
            "Seconds that CSI calls took, by method and how they ended.",
            ["method", "result"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.empty_views = Counter(
            "oneagent_csi_empty_views",
            "Pods that were let start without their agent.",
            registry=self.registry,
        )
        self.failed_attempts = Counter(
            "oneagent_csi_failed_mount_attempts",
            "Publish calls that were answered UNAVAILABLE and counted against the volume's limit.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "oneagent_csi_waiting_publishes",
            "Publish calls that wait for their version just now.",
            registry=self.registry,
        )
        self.volumes = Gauge(
            "oneagent_csi_volumes", "Volumes of this node, by state.", ["state"], registry=self.registry
        )
        self.unwritten = Gauge(
            "oneagent_csi_metadata_unwritten_volumes",
            "Volumes whose newest state is in memory only, because the database can't be written.",
            registry=self.registry,
        )
        self.database = Histogram(
            "oneagent_csi_metadata_seconds",
            "Seconds that transactions of the metadata database took, waiting included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
