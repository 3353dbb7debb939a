"""Whether host agents want the CSI driver for what they keep on a node, and whether the cluster has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oneagent.common import dynakube, identifiers


def wants_driver(mode: dynakube.Mode) -> bool:
    """Whether host agents of a mode have a volume of the driver, given that there is one."""
    return mode in ("hostMonitoring", "cloudNativeFullStack")


def is_installed(csi_driver: Mapping[str, Any] | None) -> bool:
    """By the cluster's CSIDriver object; one that is being deleted or takes no inline volumes is no help."""
    if csi_driver is None:
        return False
    metadata, spec = csi_driver.get("metadata") or {}, csi_driver.get("spec") or {}
    return (
        metadata.get("name") == identifiers.DRIVER_NAME
        and "deletionTimestamp" not in metadata
        and "Ephemeral" in (spec.get("volumeLifecycleModes") or ())
    )
