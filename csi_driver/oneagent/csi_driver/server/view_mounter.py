"""A pod's view of a version in the store: mounted completely, or not at all.

The volume's directory records the intent: it appears by one rename before the mount and is removed if the mount fails.
The store's lease is held from the last check of the version until the mount, which then shows in the mount table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from oneagent.common import agents, logs
from oneagent.common.agents.pod_files import PodFiles
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.identifiers import TenantId, Version, agent_version
from oneagent.common.injection.contract import AGENT_SUBDIRECTORY
from oneagent.csi_driver.data_dir import DataDir, LayerId, UnsafeNameError, VolumeId
from oneagent.csi_driver.linux import limits, mount_table
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server import volume_files
from oneagent.csi_driver.server.errors import InternalError
from oneagent.csi_driver.server.mount_target import MountRefusedError, MountTarget
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish_attempt import PublishAttempt
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.server.volume_dir_pool import VolumeDirPool
from oneagent.csi_driver.store import AgentStore, mount_points, mounted_views
from oneagent.csi_driver.store.mounted_views import MountedView

log = logging.getLogger(__name__)


class VersionGoneError(Exception):
    """The version or its config layer was removed between check and lease; check again."""


class MountError(Exception):
    """The kernel or the disk refused the mount; everything is rolled back. `str()` is the message."""


class ConfigLayer(NamedTuple):
    """A tenant's config layer."""

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
            raise VersionGoneError(f"the configuration for version {agent_version(version)} is not ready yet")
        if not self._store.has(version):
            raise VersionGoneError(f"version {agent_version(version)} left the store")
        volume = self._data.volume(request.volume)
        profile = request.files.profile
        files = volume_files.of_view(self.pod_files(request, desired))
        if request.user_namespace:
            agent = self._data.agent(version)
            mount_points.ensure(agent)
            files = itertools.chain(files, self._agent_config(config.path, agent, profile))
        plan = self._mounts.plan(
            volume,
            version,
            config.path,
            read_only=request.read_only,
            flags=request.mount_flags,
            options=request.mount_options,
            files=files,
            writable_directories=profile.writable_directories,
        )
        self._acquire_dirs(request.volume, volume.root)
        if profile is not agents.DEFAULT:
            self.dir_pool.remove_files_of_default(volume.root)
        self._failpoint("upper created")
        if request.user_namespace:
            attempt.target.mount_binds(plan, self._data.agent(version), self._failpoint)
        else:
            attempt.target.mount_view(plan, self._failpoint)
        return config

    def _agent_config(self, layer: str, agent: str, profile: AgentProfile) -> Iterator[tuple[str, str]]:
        """Yield the files of the agent's configuration, which a pod with a user namespace mounts over the agent's.

        There is no layer above the version that could have it. A file that the layer lacks is that of the version,
        where it may be an empty mount point: containers mount each by its name.
        """
        for path in profile.config_files:
            has_own = bool(layer) and (path == profile.config_file or os.path.lexists(f"{layer}/{path}"))
            content = mount_points.read_config(layer if has_own else agent, path)
            yield os.path.basename(path), content.decode(errors="replace")

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

    def find_view(self, target: MountTarget) -> MountedView | None:
        """Return the view at a target where something is mounted; None if that is no view of this driver."""
        table, path = mount_table.read(), target.real_path()
        top = mount_table.top_at(table, path)
        view = mounted_views.of_mount(top, self._data) if top is not None else None
        if view is None or view.is_overlay:
            return view
        try:
            upper = os.stat(self._data.volume(view.volume).upper)
        except FileNotFoundError:
            return None
        if (upper.st_dev, upper.st_ino) != target.identity():
            return None
        agent = mount_table.top_at(table, f"{path}/{AGENT_SUBDIRECTORY}")
        return view if agent is None else mounted_views.with_agent(view, agent, self._data)

    def has_view_of_dynatrace_operator(self, target: MountTarget, volume: VolumeId) -> bool:
        """Return whether the Dynatrace Operator's driver has mounted the volume's view at a target."""
        top = mount_table.top_at(mount_table.read(), target.real_path())
        overlay = mount_table.as_overlay(top) if top is not None else None
        return overlay is not None and self._data.is_upper_of_dynatrace_operator(overlay.upper or "", volume)

    def _config_layer(self, old: VolumeRecord | None, desired: DesiredState, version: Version) -> ConfigLayer | None:
        """Return the layer that the volume had with this version, else the desired one; None if that is missing."""
        if old is not None and old.version == version and old.layer and old.tenant:
            tenant, layer = TenantId(old.tenant), LayerId(old.layer)
            path = self._data.config_layer_path(tenant, layer)
            if os.path.isdir(path):
                return ConfigLayer(tenant, layer, path)
        if not (desired.tenant and desired.layer):
            return None
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

    def pod_files(self, request: PublishRequest, desired: DesiredState | None) -> PodFiles:
        """Return the pod's files, with the node's name and what the node knows of the DynaKube."""
        pod = dataclasses.replace(request.files.pod, node_name=self._node_id)
        if desired is not None:
            pod = dataclasses.replace(
                pod,
                cluster_id=desired.cluster_id or pod.cluster_id,
                host_tenant=desired.tenant if desired.host_tenant else "",
            )
        return dataclasses.replace(request.files, pod=pod)


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
