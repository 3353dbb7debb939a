"""What the provisioner counts. `version` labels go when the version goes, so they can't grow without bound."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class ProvisionerMetrics:
    """The provisioner's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.store_bytes = Gauge(
            "oneagent_csi_store_bytes", "Size of each version in the store.", ["version"], registry=registry
        )
        self.disk_bytes = Gauge(
            "oneagent_csi_store_disk_bytes",
            "What all versions take on the disk; files that versions share count once.",
            registry=registry,
        )
        self.installs = Counter("oneagent_csi_installs", "Installs by how they ended.", ["result"], registry=registry)
        self.mirror = Counter(
            "oneagent_csi_mirror_downloads",
            "Downloads that the mirror was asked for, by how they ended.",
            ["result"],
            registry=registry,
        )
        self.download_seconds = Histogram(
            "oneagent_csi_download_seconds", "Seconds that downloads took.", buckets=_SECONDS, registry=registry
        )
        self.downloaded_bytes = Counter(
            "oneagent_csi_downloaded_bytes", "Bytes of packages that came over the network.", registry=registry
        )
        self.unpack_seconds = Histogram(
            "oneagent_csi_unpack_seconds", "Seconds that unpacking took.", buckets=_SECONDS, registry=registry
        )
        self.shared_bytes = Counter(
            "oneagent_csi_shared_bytes",
            "Bytes of new versions that were not stored again, since another version has them.",
            registry=registry,
        )
        self.reclaimed_bytes = Counter(
            "oneagent_csi_gc_reclaimed_bytes",
            "Bytes that garbage collection gave back, by what they were.",
            ["kind"],
            registry=registry,
        )
        self.collections = Counter(
            "oneagent_csi_gc_runs", "Runs of the garbage collector, by how they ended.", ["result"], registry=registry
        )
        self.checks = Counter(
            "oneagent_csi_version_checks",
            "Versions that were read again, by what was found of them.",
            ["result"],
            registry=registry,
        )
        self.damaged_versions = Gauge(
            "oneagent_csi_damaged_versions",
            "Versions that were damaged and are not installed again yet, or are still mounted in a pod.",
            registry=registry,
        )
        self.log_bytes = Gauge(
            "oneagent_csi_log_bytes", "Size of the kept logs of pods that are gone.", registry=registry
        )
        self.database = Histogram(
            "oneagent_csi_metadata_seconds",
            "Seconds that transactions of the metadata database took, waiting included.",
            buckets=(0.0005, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1),
            registry=registry,
        )
        self.dynakubes = Gauge(
            "oneagent_csi_dynakubes",
            "DynaKubes by whether their version is in the store.",
            ["state"],
            registry=registry,
        )
