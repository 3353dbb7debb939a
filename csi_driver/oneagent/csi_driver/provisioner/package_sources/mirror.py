"""The mirror: a package server in the cluster, tried before the tenant, so that a cluster downloads once.

The mirror is optional, and no install waits long for it. Each failure is one log line and a metric, and the node goes
on to the tenant. Only faults of the node itself (its disk, a request to stop) fail the install. The mirror announces
the digest of its bytes and they have a file of their own, so they are never mixed with the tenant's.
"""

from __future__ import annotations

import logging
import platform
import threading
from dataclasses import dataclass
from pathlib import Path

from oneagent.common import logs, package_client
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import StoreKey, agent_version
from oneagent.csi_driver.provisioner import download_files
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources.package_source import FreeBytes, Package
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Thread-safe."""

    endpoint: package_client.Endpoint
    metrics: ProvisionerMetrics
    wait: package_client.WaitLimits = package_client.DEFAULT_WAIT

    def open_source(self, dynakube: DynaKube, key: StoreKey) -> MirrorZip | None:
        """Return the source of a version; None for a package that only the DynaKube's own source has."""
        if dynakube.package:
            return None
        version = agent_version(key)
        technologies = tuple(dynakube.technologies)
        try:
            package = package_client.Package(dynakube.name, version, platform.machine(), technologies=technologies)
        except http_client.InvalidSettingsError:
            return None
        return MirrorZip(self, package)


@dataclass(frozen=True, slots=True)
class MirrorZip:
    """The zip of a version, from the mirror."""

    mirror: Mirror
    package: package_client.Package

    @property
    def location(self) -> str:
        return self.mirror.endpoint.url.rstrip("/") + self.package.path

    def fetch(self, stem: Path, *, cancelled: threading.Event, free: FreeBytes) -> Package | None:
        """Download the package; None, after a log line, if the tenant must serve it."""
        mirror = self.mirror
        try:
            file = package_client.download_package(
                mirror.endpoint,
                self.package,
                download_files.mirror_zip_file(stem),
                cancelled=cancelled,
                wait=mirror.wait,
                free=free,
            )
        except (download.DiskFullError, download.DiskFailedError, download.DownloadCancelledError):
            raise
        except (download.DownloadError, errors.HttpError, http_client.InvalidSettingsError) as error:
            self._report_failure(_result(error), error)
            return None
        mirror.metrics.mirror.labels("ok").inc()
        return Package((file,), file.sha256, PackageContent("zip", (file.path,)))

    def reject(self, reason: Exception) -> None:
        """Report that the mirror's package is no agent."""
        self._report_failure("wrong_content", reason)

    def _report_failure(self, result: str, reason: Exception) -> None:
        self.mirror.metrics.mirror.labels(result).inc()
        log.warning(
            "mirror failed, trying the tenant",
            extra=logs.fields(version=self.package.version, result=result, reason=reason),
        )


def _result(error: Exception) -> str:
    """Return the value of the metric's label `result`."""
    cause = error.cause if isinstance(error, download.DownloadSourceError) else error
    match cause:
        case errors.UnreachableError():
            return "unreachable"
        case errors.RateLimitedError():
            return "busy"
        case errors.HttpStatusError(status=404):
            return "not_requested"
        case errors.HttpStatusError() | http_client.InvalidSettingsError():
            return "refused"
        case _:
            return "wrong_content"
