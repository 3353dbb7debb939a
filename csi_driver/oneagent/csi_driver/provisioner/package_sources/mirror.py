"""The mirror: a package endpoint in the cluster, asked before the tenant, so that a cluster downloads a version once.

It is a convenience and nothing waits for it long: whatever is wrong with it is said in one line and a metric, and
the node goes to the tenant as if there were none. Only what is wrong with the node itself (its disk, a request to
stop) is an error of the install. Its bytes lie in a file of their own and have to be what it said beforehand, so
they are never mixed with the tenant's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oneagent.common import logs, package_client
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mirror:
    """Thread-safe."""

    endpoint: package_client.Endpoint
    metrics: ProvisionerMetrics
    wait: package_client.WaitLimits = package_client.DEFAULT_WAIT

    def place(self, package: package_client.Package) -> str:
        """Where a package is, for people."""
        return self.endpoint.url.rstrip("/") + package.path

    def fetch(
        self,
        package: package_client.Package,
        into: Path,
        *,
        cancelled: threading.Event,
        free: Callable[[Path], int],
    ) -> download.Downloaded | None:
        """Bring a package to `into`; None, once that has been said, if it is to be fetched from the tenant."""
        try:
            got = package_client.download_package(
                self.endpoint, package, into, cancelled=cancelled, wait=self.wait, free=free
            )
        except (download.DiskFullError, download.DiskFailedError, download.DownloadCancelledError):
            raise
        except (download.DownloadError, errors.HttpError, http_client.InvalidSettingsError) as error:
            self.pass_over(package, _result(error), error)
            return None
        self.metrics.mirror.labels("ok").inc()
        return got

    def pass_over(self, package: package_client.Package, result: str, reason: Exception) -> None:
        """Say that the mirror is of no use for a version."""
        self.metrics.mirror.labels(result).inc()
        log.warning(
            "the mirror is of no use, the tenant is asked",
            extra=logs.facts(version=package.version, result=result, reason=reason),
        )


def _result(error: Exception) -> str:
    """The metric's label."""
    fault = error.cause if isinstance(error, download.DownloadSourceError) else error
    match fault:
        case errors.UnreachableError():
            return "away"
        case errors.RateLimitedError():
            return "busy"
        case errors.HttpStatusError(status=404):
            return "unwanted"
        case errors.HttpStatusError() | http_client.InvalidSettingsError():
            return "refused"
        case _:
            return "wrong_content"
