"""Names that more than one component must spell the same way."""

from __future__ import annotations

from typing import NewType

DRIVER_NAME = "csi.oneagent.dynatrace.com"
DISTRIBUTION = "oneagent-csi"

API_GROUP = "dynatrace.com"
FEATURE_PREFIX = "feature.dynatrace.com/"

PACKAGE_AUDIENCE = "oneagent-packages"
"""Whom a service account's token is for that is shown to the operator's package endpoint."""

PRELOAD_LIBRARY = "agent/lib64/liboneagentproc.so"
"""Where the library that `LD_PRELOAD` names lies inside a view."""

WRITABLE_DIRECTORIES = ("datastorage", "log")
"""What an agent writes lies here, below its install path. A read-only view, and an empty one in its place, has them
to mount on, and something to write to is mounted there: a container does not start whose mount has no folder."""

NOT_MOUNTED = "AgentNotMounted"
MOUNTED_LAST_GOOD = "LastGoodAgentMounted"
"""Reason of the Event by which the node driver tells of a pod that got an empty view."""

Version = NewType("Version", str)
"""An agent version's identity, safe as a folder name: `1.277.0.20230914-094321` or `sha256-<hex>`."""

DynaKubeName = NewType("DynaKubeName", str)
"""A DynaKube's name: a DNS-1035 label, so also safe as a folder name."""

TenantId = NewType("TenantId", str)
"""A tenant's UUID as its API gives it: `[A-Za-z0-9._-]` only, so also safe as a folder name."""
