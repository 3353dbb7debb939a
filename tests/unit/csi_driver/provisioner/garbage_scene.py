"""Mounts and desired states, of which tests of the garbage collector are made."""

from __future__ import annotations

from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata.desired_versions import DesiredState


def overlay(*lower: str, upper: str = "", target: str = "/pods/x") -> Mount:
    options = (f"lowerdir={':'.join(lower)}", *((f"upperdir={upper}",) if upper else ()))
    return Mount(1, "/", target, "overlay", False, options)


def bind(root: str, target: str = "/pods/y") -> Mount:
    return Mount(2, root, target, "ext4", False, ())


def desired(version: str = "", layer: str = "", name: str = "demo") -> DesiredState:
    return DesiredState(DynaKubeName(name), TenantId("t"), Version(version), LayerId(layer))
