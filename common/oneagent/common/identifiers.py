"""Names that more than one component must spell the same way."""

from __future__ import annotations

from typing import NewType

DRIVER_NAME = "csi.oneagent.dynatrace.com"
DISTRIBUTION = "oneagent-csi"

API_GROUP = "dynatrace.com"
FEATURE_PREFIX = "feature.dynatrace.com/"

Version = NewType("Version", str)
"""Identity of an agent version, safe as a directory name: `1.277.0.20230914-094321` or `sha256-<hex>`."""

DynaKubeName = NewType("DynaKubeName", str)
"""Name of a DynaKube: a DNS-1035 label, so also safe as a directory name."""

TenantId = NewType("TenantId", str)
"""UUID of a tenant as its API returns it: `[A-Za-z0-9._-]` only, so also safe as a directory name."""
