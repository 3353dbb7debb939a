"""A mount that is at a target already: the volume's own, half of it after a crash, or another one.

Mounts never stack, and a mount that is not the volume's own is neither accepted nor undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from oneagent.common import agents
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server import host_volumes, volume_rows
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.errors import AlreadyExistsError, PublishedElsewhereError, UnavailableError
from oneagent.csi_driver.server.mount_target import MountTarget
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish_attempt import PublishAttempt, PublishResult
from oneagent.csi_driver.server.view_mounter import ViewMounter


class ExistingMounts:
    """Thread-safe across volumes; one call per volume at a time (see `inflight`)."""

    def __init__(
        self,
        data: DataDir,
        mounts: OverlayMounter,
        volumes: VolumeRepository,
        view_mounter: ViewMounter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data = data
        self._mounts = mounts
        self._volumes = volumes
        self._view_mounter = view_mounter
        self._now = now

    def accept(self, attempt: PublishAttempt) -> PublishResult | None:
        """Accept the mount at the target if it is this volume's, as requested; else refuse the publish.

        None: a crash left half of it, which is undone. No caller has had an answer about it. `AlreadyExistsError`,
        `UnavailableError`.
        """
        request, record, target = attempt.request, attempt.record, attempt.target
        view = self._view_mounter.find_view(target)
        if view is not None and view.volume == request.volume and not view.is_complete:
            self._view_mounter.rollback(request.volume, target)
            if target.is_mounted():
                raise UnavailableError(f"volume {request.volume}: half a view is mounted, and can't be unmounted")
            return None
        if (
            record is None
            and request.mode == "host"
            and host_volumes.find_owner(self._data, target) == request.dynakube
        ):
            # The database was lost. Reconciliation at the start adopts only views from the mount table.
            record = self._volumes.put(volume_rows.record(request, VolumeState.MOUNTED, self._now()))
        if record is None or record.target != request.target or request.mode == "conf":
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        # A row adopted from the mount table after the database was lost has no DynaKube.
        same_dynakube = record.dynakube in {"", request.dynakube}
        # Adopted binds are read-only, whatever was requested.
        same_access = record.read_only == request.read_only or (request.user_namespace and not record.dynakube)
        if not (same_dynakube and record.mode == request.mode and same_access):
            named = agents.describe_object(record.dynakube, quoted=True)
            raise AlreadyExistsError(
                f"volume {request.volume} is published at {request.target!r} with mode {record.mode!r}, {named} and "
                f"readonly={record.read_only}; unpublish it first"
            )
        if request.mode == "app" and (view is None or view.volume != request.volume):
            raise AlreadyExistsError(f"target_path: another volume's view is mounted at {request.target!r}")
        if view is not None and view.is_overlay == request.user_namespace:
            raise AlreadyExistsError(f"target_path: another kind of view is mounted at {request.target!r}")
        if request.mode == "host" and host_volumes.find_owner(self._data, target) != request.dynakube:
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        if not record.dynakube:
            row = volume_rows.record(
                request,
                VolumeState.MOUNTED,
                self._now(),
                tenant=record.tenant,
                version=record.version,
                layer=record.layer,
            )
            self._volumes.put(row)
        return PublishResult(CallResult.ALREADY_MOUNTED, record.version)

    def refuse_second_target(self, attempt: PublishAttempt) -> None:
        """Raise `PublishedElsewhereError` if the volume is mounted at another target."""
        record = attempt.record
        if record is None or record.target == attempt.request.target:
            return
        with self._mounts.open_target(TargetPath(record.target)) as other:
            if other.is_mounted():
                raise PublishedElsewhereError(f"volume {record.id} is published at {record.target!r} already")

    def is_own(self, target: MountTarget, volume: VolumeId) -> bool:
        """Return whether a mount that the volume's row does not name is the volume's own.

        It is the volume's view, or a host agent's directory that no other volume has there. The Dynatrace Operator's
        driver has the same name: kubelet asks for an unmount of its views as soon as this one has taken its place.
        """
        if (view := self._view_mounter.find_view(target)) is not None:
            return view.volume == volume
        if self._view_mounter.has_view_of_dynatrace_operator(target, volume):
            return True
        return host_volumes.find_owner(self._data, target) is not None and all(
            row.target != target.path for row in self._volumes.all()
        )
