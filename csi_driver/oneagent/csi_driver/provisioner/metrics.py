"""Metrics of the provisioner. The labels of a version are dropped with it, so its values stay bounded."""

from __future__ import annotations

from oneagent.common import prometheus
from oneagent.common.prometheus import Counter, Gauge, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class ProvisionerMetrics:
    """The provisioner's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = prometheus.create_registry("provisioner")
        self.store_bytes = Gauge(
            "oneagent_csi_store_bytes",
            "Size of each version in the store; the source is a digest of where a version is from.",
            ["version", "source"],
            registry=registry,
        )
        self.disk_bytes = Gauge(
            "oneagent_csi_store_disk_bytes",
            "Size of all versions on the disk; files that versions share count once.",
            registry=registry,
        )
        self.installs = Counter("oneagent_csi_installs", "Installs, by result.", ["result"], registry=registry)
        self.mirror = Counter(
            "oneagent_csi_mirror_downloads",
            "Downloads from the mirror, by result.",
            ["result"],
            registry=registry,
        )
        self.download_seconds = Histogram(
            "oneagent_csi_download_duration_seconds", "Duration of downloads.", buckets=_SECONDS, registry=registry
        )
        self.downloaded_bytes = Counter(
            "oneagent_csi_downloaded_bytes", "Bytes of packages downloaded over the network.", registry=registry
        )
        self.unpack_seconds = Histogram(
            "oneagent_csi_unpack_duration_seconds", "Duration of unpacking.", buckets=_SECONDS, registry=registry
        )
        self.shared_bytes = Counter(
            "oneagent_csi_shared_bytes",
            "Bytes of new versions that were hard-linked to equal files of other versions.",
            registry=registry,
        )
        self.reclaimed_bytes = Counter(
            "oneagent_csi_gc_reclaimed_bytes",
            "Bytes that garbage collection freed, by kind.",
            ["kind"],
            registry=registry,
        )
        self.collections = Counter(
            "oneagent_csi_gc_runs", "Runs of the garbage collector, by result.", ["result"], registry=registry
        )
        self.checks = Counter(
            "oneagent_csi_version_checks",
            "Scrubs of versions, by result.",
            ["result"],
            registry=registry,
        )
        self.corrupt_versions = Gauge(
            "oneagent_csi_corrupt_versions",
            "Corrupt versions that are not installed again yet, or are still mounted in a pod.",
            registry=registry,
        )
        self.trash_bytes = Gauge(
            "oneagent_csi_trash_bytes",
            "Size of discarded files that could not be deleted, for example because a mount uses them.",
            registry=registry,
        )
        self.log_bytes = Gauge("oneagent_csi_log_bytes", "Size of the kept logs of deleted pods.", registry=registry)
        self.database = Histogram(
            "oneagent_csi_metadata_transaction_duration_seconds",
            "Duration of metadata transactions, including waiting.",
            buckets=(0.0005, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1),
            registry=registry,
        )
        self.watch_silence = Gauge(
            "oneagent_csi_watch_silent_seconds",
            "Seconds since the source of DynaKubes, as the API server, last answered.",
            registry=registry,
        )
        self.dynakubes = Gauge(
            "oneagent_csi_dynakubes",
            "DynaKubes, by state of their version in the store.",
            ["state"],
            registry=registry,
        )
