"""A pod's view of a version that is in the store: made whole, or not at all.

The volume's folder is the intent: it appears by one rename before the mount and goes if the mount fails. The store's
lease is held from the last look at the version until the mount, which afterwards shows in the mount table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from oneagent.common.agent_config import container_conf
from oneagent.common.identifiers import TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId, UnsafeNameError, VolumeId
from oneagent.csi_driver.linux.mount_table import Mount, as_overlay
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server import overlay as server_overlay
from oneagent.csi_driver.server.errors import InternalError
from oneagent.csi_driver.server.overlay import MountTarget, OverlayMounter
from oneagent.csi_driver.server.request_validation import Publish
from oneagent.csi_driver.server.volume_dir_pool import VolumeDirPool
from oneagent.csi_driver.store import AgentStore


class VersionGoneError(Exception):
    """The version, or the config layer, left between the look and the lease: look again."""


class MountError(Exception):
    """The kernel or the disk says no; everything is undone. `str()` is for people."""


class ConfigLayer(NamedTuple):
    """A tenant's config layer; `layer` and `path` are empty for none."""

    tenant: TenantId
    layer: LayerId
    path: str


class ViewMounter:
    """Thread-safe for different volumes; of one volume only one call may be under way (see `inflight`)."""

    def __init__(
        self,
        node_id: str,
        folder: DataDir,
        store: AgentStore,
        mounts: OverlayMounter,
        *,
        keep_logs: bool,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._folder = folder
        self._store = store
        self._views = mounts
        self._keep_logs = keep_logs
        self._now = now
        self._failpoint = failpoint
        self.dir_pool = VolumeDirPool(folder)

    def mount(
        self, request: Publish, old: VolumeRecord | None, wanted: DesiredState, version: Version, target: MountTarget
    ) -> ConfigLayer:
        """Mount a version that is in the store, and say with which config layer; `VersionGoneError` or `MountError`."""
        with self._store.lease():
            config = self._config(old, wanted, version)
            if config is None:
                raise VersionGoneError(f"the config layer of version {version} is being made")
            if not self._store.has(version):
                raise VersionGoneError(f"version {version} left the store")
            try:
                volume = self._folder.volume(request.volume)
                plan = self._views.plan(
                    volume,
                    version,
                    config.path,
                    read_only=request.read_only,
                    flags=request.mount_flags,
                    options=request.mount_options,
                    files=self._files(request, wanted),
                )
                self._take(request.volume, volume.root)
                self._failpoint("upper made")
                target.mount_view(plan, self._failpoint)
            except (OSError, UnsafeNameError) as error:
                self.rollback(request.volume, target)
                raise MountError(f"the view can't be mounted: {why(error)}") from error
        self._failpoint("mounted")
        return config

    def rollback(self, volume: VolumeId, target: MountTarget) -> None:
        """After this the node looks as if the publish had never begun."""
        with contextlib.suppress(InternalError):
            target.unmount_and_remove(self._failpoint)
        self._folder.discard(self._folder.volume(volume).root)

    def discard_volume(self, volume: VolumeId) -> None:
        """The volume's folder goes: its upper layer to the logs if they are kept, all else to the trash."""
        if self._keep_logs:
            with contextlib.suppress(FileNotFoundError):
                self._folder.keep_log(volume, self._now())
        self._folder.discard(self._folder.volume(volume).root)

    def owner(self, mount: Mount) -> VolumeId | None:
        """The volume whose view a mount is, if it is one."""
        overlay = as_overlay(mount)
        if overlay is None:
            return None
        return self._folder.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))

    def _config(self, old: VolumeRecord | None, wanted: DesiredState, version: Version) -> ConfigLayer | None:
        """The config layer that the volume once had with this version, else the wanted one; None if that has gone."""
        if old is not None and old.version == version and old.layer and old.tenant:
            tenant, layer = TenantId(old.tenant), LayerId(old.layer)
            kept = self._folder.layer(tenant, layer)
            if os.path.isdir(kept):
                return ConfigLayer(tenant, layer, kept)
        if not (wanted.tenant and wanted.layer):
            return ConfigLayer(wanted.tenant, LayerId(""), "")
        place = self._folder.layer(wanted.tenant, wanted.layer)
        return ConfigLayer(wanted.tenant, wanted.layer, place) if os.path.isdir(place) else None

    def _take(self, volume: VolumeId, place: str) -> None:
        """A fresh folder for the volume. One from before a reboot is put away: its pod may have prepared it for us."""
        try:
            self.dir_pool.acquire(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.discard_volume(volume)
            self.dir_pool.acquire(place)

    def _files(self, request: Publish, wanted: DesiredState) -> tuple[tuple[str, bytes], ...]:
        """The identity files: one for the pod, and one for each container that the webhook named."""
        pod = container_conf.Container(
            pod_name=request.pod_name,
            pod_uid=request.pod_uid,
            namespace=request.pod_namespace,
            cluster_id=wanted.cluster_id,
            node_name=self._node_id,
            host_tenant=wanted.tenant if wanted.host_tenant else "",
            container_name=request.containers[0] if len(request.containers) == 1 else "",
        )
        files = [(server_overlay.IDENTITY_FILE, pod)]
        files += [
            (f"{server_overlay.CONFIG_FOLDER}/container_{name}.conf", dataclasses.replace(pod, container_name=name))
            for name in request.containers
        ]
        return tuple((name, container_conf.render(container).encode()) for name, container in files)


def why(error: OSError | UnsafeNameError) -> str:
    """What went wrong, with the path if there is one."""
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return str(error)
