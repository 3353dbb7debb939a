"""With CSI: the agent is in the volume before this container starts, or it will not come.

The driver gives up at last and mounts nothing, so that the pod starts. An application would only see that its
library can't be preloaded; here it is said why.
"""

from __future__ import annotations

import os

from oneagent.common import identifiers
from oneagent.common.injection import contract
from oneagent.sidecars.init_container import NoAgentError


def check(folder: str, node: str) -> None:
    """`NoAgentError` unless what is preloaded is in the view."""
    volume, where = f"the volume {contract.BIN_VOLUME}", f"on node {node}" if node else "on this pod's node"
    if os.path.isfile(os.path.join(folder, identifiers.PRELOAD_LIBRARY)):
        return
    try:
        empty = "agent" not in os.listdir(folder)
    except OSError as error:
        raise NoAgentError(
            f"{volume} can't be read: {error.strerror} ({folder}): see the log of the CSI driver {where}"
        ) from error
    if empty:
        raise NoAgentError(
            f"{volume} is empty: the CSI driver had no agent for this pod {where}; the pod's Events and the DynaKube's "
            "conditions say why. Put that right and delete the pod to have it monitored"
        )
    raise NoAgentError(
        f"{volume} has no {identifiers.PRELOAD_LIBRARY}: the agent {where} is not whole, or not for this kind of machine; "
        "name another version in the DynaKube and delete the pod to have it monitored"
    )
