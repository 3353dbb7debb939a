"""Whether this process ends because the driver was uninstalled: found out for the server, which can't ask.

The DaemonSet is asked for again and again, since a namespace that is deleted may lose its pods before its
DaemonSets. It counts as uninstalled when it is gone, when it is being deleted, and when it may not be seen any more:
role and service account are removed as well. For what the server makes of it see `oneagent.csi_driver.server.shutdown`.
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

_ASK_SECONDS: Final = 0.5
_LIMIT_SECONDS: Final = 4.0


@runtime_checkable
class Cluster(Protocol):
    def has_daemonset(self, name: str) -> bool:
        """Whether a DaemonSet is there to stay, in the namespace of this process; `ApiError`."""
        ...


def watch(cluster: Cluster, daemonset: str, folder: DataDir, stop: threading.Event) -> None:
    """Wait for `stop`; leave word in the data folder if it means an uninstall. For a thread of its own."""
    # A wrong name or role looks like an uninstall, and the server would hold up each update of the driver for it.
    if not stop.is_set() and (reason := _why_gone(cluster, daemonset)):
        facts = logs.facts(daemonset=daemonset, reason=reason)
        log.error("an uninstall will go unnoticed: check --daemonset, and that the role may get it", extra=facts)
        return
    stop.wait()
    deadline = time.monotonic() + _LIMIT_SECONDS
    # Without a server nobody waits for the answer.
    while process.is_locked(folder.server_lock) is not False and time.monotonic() < deadline:
        if reason := _why_gone(cluster, daemonset):
            # Empty, so it is there or not, and never half written.
            folder.uninstall_marker.touch(mode=0o600)
            log.info("the driver was uninstalled", extra=logs.facts(daemonset=daemonset, reason=reason))
            return
        time.sleep(_ASK_SECONDS)


def _why_gone(cluster: Cluster, daemonset: str) -> str:
    """Why it counts as uninstalled; empty if it is there, or that can't be told."""
    try:
        return "" if cluster.has_daemonset(daemonset) else "it is being deleted"
    except (errors.NotFoundError, errors.ForbiddenError) as error:
        return str(error)
    except errors.ApiError:
        return ""
