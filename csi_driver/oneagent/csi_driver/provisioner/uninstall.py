"""Detection of an uninstall, for the server, which has no access to the API server.

The DaemonSet is polled, because a namespace that is deleted may lose its pods before its DaemonSets. The driver counts
as uninstalled when the DaemonSet is gone, is being deleted, or is forbidden: role and service account are removed as
well. `oneagent.csi_driver.server.shutdown` describes what the server does then.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol, runtime_checkable

from oneagent.common import logs
from oneagent.common.kubernetes import errors
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import process

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5
_LIMIT_SECONDS: Final = 4.0


@runtime_checkable
class Cluster(Protocol):
    def has_daemonset(self, name: str) -> bool:
        """Return True if a DaemonSet of this namespace exists and is not being deleted; `ApiError`."""
        ...


def watch(cluster: Cluster, daemonset: str, data: DataDir, stop: threading.Event) -> None:
    """Wait for `stop`; write the marker if it is an uninstall. Needs a thread of its own."""
    # A wrong name or role looks like an uninstall, and would delay the server at each update of the driver.
    if not stop.is_set() and (reason := _find_reason(cluster, daemonset)):
        details = logs.fields(daemonset=daemonset, reason=reason)
        log.error("uninstall detection disabled: check --daemonset and that the role allows get", extra=details)
        return
    stop.wait()
    deadline = time.monotonic() + _LIMIT_SECONDS
    # Without a server, no process waits for the marker.
    while process.is_locked(data.server_lock) is not False and time.monotonic() < deadline:
        if reason := _find_reason(cluster, daemonset):
            # Empty, so it is never half written.
            data.uninstall_marker.touch(mode=0o600)
            log.info("driver uninstalled", extra=logs.fields(daemonset=daemonset, reason=reason))
            return
        time.sleep(_POLL_SECONDS)


def _find_reason(cluster: Cluster, daemonset: str) -> str:
    """Return why the driver counts as uninstalled; empty if it does not, or without an answer."""
    try:
        return "" if cluster.has_daemonset(daemonset) else "it is being deleted"
    except (errors.NotFoundError, errors.ForbiddenError) as error:
        return str(error)
    except errors.ApiError:
        return ""
