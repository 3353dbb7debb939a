"""Views in the mount table, of both kinds.

    overlay     the version below the volume's upper layer
    bind        for pods with a user namespace: the volume's upper layer, and the version at `bin` in it, each read-only

An overlay shows the paths of its layers as the server named them. The source of a bind mount shows as a path within its
file system, whose root may not be that of the data directory. So the last parts of such a path count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from oneagent.common.identifiers import TenantId, Version
from oneagent.common.injection.contract import AGENT_SUBDIRECTORY
from oneagent.csi_driver.data_dir import DataDir, LayerId, VolumeId, is_component
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.mount_table import Mount


@dataclass(frozen=True, slots=True)
class MountedView:
    """The mount of a volume's view, or of a part of it: kubelet binds parts for a subPath."""

    volume: VolumeId
    mount: Mount
    version: Version = Version("")
    """Empty for the bind of a volume whose version is not mounted yet"""
    tenant: TenantId = TenantId("")
    layer: LayerId = LayerId("")
    read_only: bool = True
    whole: bool = True
    """Not a part"""
    agent: Mount | None = None
    """The mount of the version, if that is one of its own"""

    @property
    def is_overlay(self) -> bool:
        return self.mount.fs_type == "overlay"

    @property
    def is_complete(self) -> bool:
        """False for the bind of a volume's files without its agent, which is half of a view."""
        return self.is_overlay or self.agent is not None

    @property
    def layers(self) -> tuple[str | None, tuple[str, ...]]:
        """The upper layer and the lower ones."""
        if overlay := mount_table.as_overlay(self.mount):
            return overlay.upper, overlay.lower
        return None, (self.mount.root, *((self.agent.root,) if self.agent is not None else ()))


def find(mounts: Iterable[Mount], data: DataDir) -> list[MountedView]:
    """Return the views in their order in the table."""
    mounts = list(mounts)
    agents = {mount.target: mount for mount in mounts if bound_version(mount, data)}
    found = []
    for mount in mounts:
        if (view := of_mount(mount, data)) is not None:
            agent = agents.get(f"{mount.target}/{AGENT_SUBDIRECTORY}") if view.whole else None
            found.append(view if agent is None else with_agent(view, agent, data))
    return found


def of_mount(mount: Mount, data: DataDir) -> MountedView | None:
    """Return the view that a mount shows; None for other mounts. Of a bind it lacks the version."""
    if overlay := mount_table.as_overlay(mount):
        volume = data.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))
        if volume is None:
            return None
        version = next((found for layer in overlay.lower if (found := data.version_of_layer(layer))), Version(""))
        layer = next((layer for layer in overlay.lower if layer.startswith(f"{data.config_layers}/")), "")
        tenant, _, layer_id = layer.removeprefix(f"{data.config_layers}/").partition("/")
        return MountedView(
            *(volume, mount, version, TenantId(tenant), LayerId(layer_id)),
            read_only=overlay.upper is None,
            whole=mount.root == "/",
        )
    match list(_parts_after(mount.root, data.volumes.name)):
        case [name, "upper", *rest] if is_component(name):
            return MountedView(VolumeId(name), mount, whole=not rest)
        case _:
            return None


def with_agent(view: MountedView, agent: Mount, data: DataDir) -> MountedView:
    """Return a bind's view with the mount of its version; without one that a pod could write to."""
    if view.is_overlay or not agent.read_only:
        return view
    return dataclasses.replace(view, version=bound_version(agent, data), agent=agent)


def bound_version(mount: Mount, data: DataDir) -> Version:
    """Return the version that a bind mount, or a part of it, has as its source; empty for other mounts.

    A corrupt version lies in the trash while views have it.
    """
    if mount.fs_type == "overlay":
        return Version("")
    for name in _parts_after(mount.root, data.agents.name):
        return Version(name)
    for name in _parts_after(mount.root, data.trash.name):
        return Version(name.rpartition(".")[0])
    return Version("")


def _parts_after(path: str, directory: str) -> Iterator[str]:
    """Yield the parts of a path after the last directory of a name."""
    _, separator, rest = path.rpartition(f"/{directory}/")
    if separator:
        yield from rest.split("/")
