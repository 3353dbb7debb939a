"""Names that more than one component must spell the same way."""

from __future__ import annotations

from typing import NewType

DRIVER_NAME = "csi.oneagent.dynatrace.com"
DISTRIBUTION = "oneagent-csi"

API_GROUP = "dynatrace.com"
FEATURE_PREFIX = "feature.dynatrace.com/"

PACKAGE_AUDIENCE = "oneagent-packages"
"""Audience of the service account tokens that the operator's package server accepts."""

PRELOAD_LIBRARY = "agent/lib64/liboneagentproc.so"
"""Path inside a view of the library that `LD_PRELOAD` names."""

WRITABLE_DIRECTORIES = ("datastorage", "log")
"""Directories below its install path that an agent writes to. Read-only views and empty views have them too: they are
mount points for something writable, and a container whose mount point is missing does not start."""

AGENT_NOT_MOUNTED = "AgentNotMounted"
LAST_GOOD_MOUNTED = "LastGoodAgentMounted"
"""Reasons of the Events about pods that got an empty view, or an older version than the desired one."""

Version = NewType("Version", str)
"""Identity of an agent version, safe as a directory name: `1.277.0.20230914-094321` or `sha256-<hex>`."""

DynaKubeName = NewType("DynaKubeName", str)
"""Name of a DynaKube: a DNS-1035 label, so also safe as a directory name."""

TenantId = NewType("TenantId", str)
"""UUID of a tenant as its API returns it: `[A-Za-z0-9._-]` only, so also safe as a directory name."""
