"""What a pod gets while its DynaKube's version is not there: the DynaKube's mount policy.

    wait        it waits, and starts without an agent once its attempts are used up
    last-good   it gets the version that the DynaKube's pods had before, at once, if that is still in the store
    fail        it waits for as long as it takes, and never gets an empty view

The version before is the one that was last wanted and in the store at the same time, so it is whole and has its
configuration; garbage collection keeps it for a DynaKube of this policy. A damaged one has left the store, and is
waited for like any other.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from oneagent.csi_driver.metadata.desired_versions import MOUNT_ATTEMPTS, MOUNT_TIMEOUT_SECONDS, DesiredState
from oneagent.csi_driver.server.mount_limits import Limits
from oneagent.csi_driver.server.request_validation import Publish
from oneagent.csi_driver.store import AgentStore

LAST_GOOD: Final = "last-good"
FAIL: Final = "fail"


def limits(request: Publish, wanted: DesiredState | None) -> Limits:
    """How long a volume waits. What the pod asks for comes before what the DynaKube says, but for `fail`."""
    if wanted is None:
        wanted = DesiredState(
            request.dynakube, mount_attempts=MOUNT_ATTEMPTS, mount_timeout_seconds=MOUNT_TIMEOUT_SECONDS
        )
    if wanted.mount_policy == FAIL:
        return Limits(math.inf, math.inf)
    timeout = request.retry_timeout_seconds
    return Limits(wanted.mount_attempts, wanted.mount_timeout_seconds if timeout is None else timeout)


def instead(wanted: DesiredState | None, store: AgentStore) -> DesiredState | None:
    """What to mount while the wanted version is not there; None to wait for that."""
    if wanted is None or wanted.mount_policy != LAST_GOOD or wanted.good_version == wanted.version:
        return None
    if not store.has(wanted.good_version):
        return None
    return dataclasses.replace(wanted, version=wanted.good_version, layer=wanted.good_layer)
