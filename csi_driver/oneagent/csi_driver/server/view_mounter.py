"""A pod's view of a version in the store: mounted completely, or not at all.

The volume's directory records the intent: it appears by one rename before the mount and is removed if the mount fails.
The store's lease is held from the last check of the version until the mount, which then shows in the mount table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from oneagent.common import logs
from oneagent.common.agent_config import container_conf
from oneagent.common.identifiers import TenantId, Version
from oneagent.csi_driver.data_dir import DataDir, LayerId, UnsafeNameError, VolumeId
from oneagent.csi_driver.linux import limits
from oneagent.csi_driver.linux.mount_table import Mount, as_overlay
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server.errors import InternalError
from oneagent.csi_driver.server.mount_target import CONFIG_DIRECTORY, IDENTITY_FILE, MountRefusedError, MountTarget
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish_attempt import PublishAttempt
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.server.volume_dir_pool import VolumeDirPool
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)


class VersionGoneError(Exception):
    """The version or its config layer was removed between check and lease; check again."""


class MountError(Exception):
    """The kernel or the disk refused the mount; everything is rolled back. `str()` is the message."""


class ConfigLayer(NamedTuple):
    """A tenant's config layer; `layer` and `path` are empty for none."""

    tenant: TenantId
    layer: LayerId
    path: str


class ViewMounter:
    """Thread-safe across volumes; one call per volume at a time (see `inflight`)."""

    def __init__(
        self,
        node_id: str,
        data: DataDir,
        store: AgentStore,
        mounts: OverlayMounter,
        *,
        keep_logs: bool,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._data = data
        self._store = store
        self._mounts = mounts
        self._keep_logs = keep_logs
        self._now = now
        self._failpoint = failpoint
        self.dir_pool = VolumeDirPool(data)

    def mount(self, attempt: PublishAttempt, desired: DesiredState, version: Version) -> ConfigLayer:
        """Mount a version from the store and return its config layer.

        `VersionGoneError`, `MountError`, or `StoreBusyError` during a removal.
        """
        try:
            with self._store.lease():
                config = self._mount(attempt, desired, version)
        except (OSError, UnsafeNameError) as error:
            self.rollback(attempt.request.volume, attempt.target)
            reason = describe_error(error, self._data, attempt.request.mount_options)
            raise MountError(f"the view can't be mounted: {reason}") from error
        self._failpoint("mounted")
        return config

    def _mount(self, attempt: PublishAttempt, desired: DesiredState, version: Version) -> ConfigLayer:
        request = attempt.request
        config = self._config_layer(attempt.record, desired, version)
        if config is None:
            raise VersionGoneError(f"the config layer of version {version} is not ready yet")
        if not self._store.has(version):
            raise VersionGoneError(f"version {version} left the store")
        volume = self._data.volume(request.volume)
        plan = self._mounts.plan(
            volume,
            version,
            config.path,
            read_only=request.read_only,
            flags=request.mount_flags,
            options=request.mount_options,
            files=self._identity_files(request, desired),
        )
        self._acquire_dirs(request.volume, volume.root)
        self._failpoint("upper created")
        attempt.target.mount_view(plan, self._failpoint)
        return config

    def rollback(self, volume: VolumeId, target: MountTarget) -> None:
        """Return the node to its state before the publish."""
        with contextlib.suppress(InternalError):
            target.unmount_and_remove(self._failpoint)
        self._discard_root(volume)

    def discard(self, volume: VolumeId) -> None:
        """Move the volume's directory to the trash; its upper layer to the logs if these are kept.

        A directory that can't be moved, on a read-only disk, stays for the next sweep.
        """
        if self._keep_logs:
            try:
                self._data.keep_log(volume, self._now())
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("log of a pod not kept", extra=logs.fields(volume=volume, reason=error.strerror))
        self._discard_root(volume)

    def _discard_root(self, volume: VolumeId) -> None:
        try:
            self._data.discard(self._data.volume(volume).root)
        except OSError as error:
            log.warning("volume's directory not discarded", extra=logs.fields(volume=volume, reason=error.strerror))

    def find_owner(self, mount: Mount) -> VolumeId | None:
        """Return the volume of a mounted view; None for other mounts."""
        overlay = as_overlay(mount)
        if overlay is None:
            return None
        return self._data.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))

    def _config_layer(self, old: VolumeRecord | None, desired: DesiredState, version: Version) -> ConfigLayer | None:
        """Return the layer that the volume had with this version, else the desired one; None if that is missing."""
        if old is not None and old.version == version and old.layer and old.tenant:
            tenant, layer = TenantId(old.tenant), LayerId(old.layer)
            path = self._data.config_layer_path(tenant, layer)
            if os.path.isdir(path):
                return ConfigLayer(tenant, layer, path)
        if not (desired.tenant and desired.layer):
            return ConfigLayer(desired.tenant, LayerId(""), "")
        path = self._data.config_layer_path(desired.tenant, desired.layer)
        return ConfigLayer(desired.tenant, desired.layer, path) if os.path.isdir(path) else None

    def _acquire_dirs(self, volume: VolumeId, path: str) -> None:
        """Acquire a fresh directory. One from before a reboot is discarded: its pod may have planted files in it."""
        try:
            self.dir_pool.acquire(path)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.discard(volume)
            self.dir_pool.acquire(path)

    def _identity_files(self, request: PublishRequest, desired: DesiredState) -> Iterator[tuple[str, bytes]]:
        """Render the identity files one by one: that of the pod, and one for each container that the webhook named."""
        pod = container_conf.Container(
            pod_name=request.pod_name,
            pod_uid=request.pod_uid,
            namespace=request.pod_namespace,
            cluster_id=desired.cluster_id,
            node_name=self._node_id,
            host_tenant=desired.tenant if desired.host_tenant else "",
            container_name=request.containers[0] if len(request.containers) == 1 else "",
        )
        yield IDENTITY_FILE, container_conf.render(pod).encode()
        for name in request.containers:
            container = dataclasses.replace(pod, container_name=name)
            yield f"{CONFIG_DIRECTORY}/container_{name}.conf", container_conf.render(container).encode()


def describe_error(error: OSError | UnsafeNameError, data: DataDir, mount_options: Sequence[str] = ()) -> str:
    """Describe an error, with the path if there is one, and the limit or the mount option that it means."""
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error, MountRefusedError):
        explanation = limits.explain_mount(error, str(data.root), mount_options)
    else:
        explanation = limits.explain_file(error)
    place = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{place}" + (f": {explanation}" if explanation else "")
