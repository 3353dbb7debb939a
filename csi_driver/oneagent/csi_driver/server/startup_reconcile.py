"""Reconciliation of mounts, directories and rows after a crash, a reboot or a lost database.

It runs before the first request.

The mount table is authoritative, and mounts of running pods are never touched: an unknown mount is adopted. A volume's
directory that is neither mounted nor named by a row is discarded; kubelet will publish again. A row whose pod is gone
is dropped: kubelet would never unpublish it. A pod is gone if kubelet's directory for the volume is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import agents, logs
from oneagent.common.injection import contract
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId, is_component
from oneagent.csi_driver.linux import mount_table, tree_walker
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.server.errors import CallInFlightError, DriverError
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.store import mounted_views
from oneagent.csi_driver.store.mounted_views import MountedView

log = logging.getLogger(__name__)

_POD_UID: Final = re.compile(r"/pods/([^/]+)/volumes/")


@dataclass(slots=True)
class Plan:
    """Rows to `put`, volumes to `drop` (their pod is gone), and volumes whose directories to `discard` (no row)."""

    put: list[VolumeRecord] = field(default_factory=list)
    drop: list[VolumeId] = field(default_factory=list)
    discard: list[VolumeId] = field(default_factory=list)


def plan(
    records: Iterable[VolumeRecord],
    mounted: Iterable[MountedView],
    directories: Iterable[VolumeId],
    is_mounted: Callable[[VolumeRecord], bool],
    is_pod_gone: Callable[[VolumeRecord], bool],
    is_own: Callable[[MountedView], bool],
) -> Plan:
    """Compare rows, mounts and directories; changes nothing.

    A view without a row is adopted only if it `is_own`: a pod can have a bind mount whose source only looks like ours.
    """
    result = Plan()
    rows = {record.id: record for record in records}
    # Of several mounts of one view the whole one is last: kubelet binds parts of it for a subPath.
    wholes_last = sorted(mounted, key=lambda view: view.whole)
    views = {view.volume: view for view in wholes_last}
    places = {(view.volume, view.mount.target) for view in wholes_last if view.whole}
    for volume, view in views.items():
        if volume not in rows and not is_own(view):
            continue
        adopted = _adopt(view, rows.get(volume))
        if adopted is not None and view.whole and (volume, adopted.target) not in places:
            # The row is of a call with another target, which failed before the one that mounted.
            adopted = dataclasses.replace(adopted, target=view.mount.target)
        if adopted is not None and adopted != rows.get(volume):
            result.put.append(adopted)
    for volume, row in rows.items():
        if volume in views:
            continue
        if is_mounted(row):
            if row.mode == "host" and row.state == VolumeState.WAITING:
                result.put.append(dataclasses.replace(row, state=VolumeState.MOUNTED, reason=""))
        elif is_pod_gone(row):
            result.drop.append(volume)
    result.discard += [volume for volume in directories if volume not in views and volume not in rows]
    return result


def _adopt(view: MountedView, row: VolumeRecord | None) -> VolumeRecord | None:
    """Return the row for a mount. The given row may describe an earlier mount, if its successor was never written."""
    if row is not None and view.is_complete:
        return dataclasses.replace(
            row,
            state=VolumeState.MOUNTED,
            version=view.version,
            tenant=view.tenant or row.tenant,
            layer=view.layer if view.is_overlay else row.layer,
            attempts=0,
            first_failed_at=0.0,
            reason=row.reason if row.state == VolumeState.MOUNTED else "",
        )
    if row is not None or not (view.is_complete or view.whole):
        return row
    pod = _POD_UID.search(view.mount.target)
    return VolumeRecord(
        id=view.volume,
        mode="app",
        dynakube="",
        target=view.mount.target,
        # A bind without its version is half of a view, which the next publish undoes.
        state=VolumeState.MOUNTED if view.is_complete else VolumeState.WAITING,
        version=view.version,
        tenant=view.tenant,
        layer=view.layer,
        read_only=view.read_only,
        pod_uid=pod[1] if pod else "",
        reason="found in the mount table",
    )


class Reconciler:
    """Executes the plans."""

    def __init__(
        self,
        data: DataDir,
        volumes: VolumeRepository,
        mounts: OverlayMounter,
        calls: InFlightCalls,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data = data
        self._volumes = volumes
        self._mounts = mounts
        self._calls = calls
        self._now = now

    def reconcile(self) -> None:
        """Reconcile before the first request, while no call uses volumes."""
        started = time.perf_counter()
        views = [self._as_requested(view) for view in mounted_views.find(mount_table.read(), self._data)]
        directories = self._list_directories()
        changes = plan(self._volumes.all(), views, directories, self._is_mounted, self._is_pod_gone, self._is_own)
        for record in changes.put:
            self._volumes.put(dataclasses.replace(self._add_pod_name(record), changed_at=self._now()))
        for volume in changes.discard:
            self._discard(volume)
        for volume in changes.drop:
            self._drop(volume)
        log.info(
            "volumes reconciled",
            extra=logs.fields(
                rows=len(self._volumes.all()),
                changed=len(changes.put),
                dropped=len(changes.drop),
                discarded=len(changes.discard),
                seconds=round(time.perf_counter() - started, 3),
            ),
        )

    def _as_requested(self, view: MountedView) -> MountedView:
        target = self._mounts.requested_path(view.mount.target)
        if target == view.mount.target:
            return view
        return dataclasses.replace(view, mount=dataclasses.replace(view.mount, target=target))

    def _list_directories(self) -> list[VolumeId]:
        """List the directories of volumes; entries with other names are left alone."""
        try:
            names = os.listdir(self._data.volumes)
        except OSError as error:
            log.warning("directories of volumes not listed", extra=logs.fields(reason=error.strerror))
            return []
        return [VolumeId(name) for name in names if is_component(name)]

    def _add_pod_name(self, record: VolumeRecord) -> VolumeRecord:
        """Add the pod's name from its view, for logs and reports only: the pod may have changed that file."""
        if record.pod_name or record.mode != "app":
            return record
        for profile in agents.PROFILES:
            file = f"{contract.VIEW_FILES_DIRECTORY}/{profile.identity_file}"
            try:
                content = tree_walker.read_file(self._data.volume(record.id).upper, file, 4096)
            except OSError:
                continue
            if (identity := profile.parse_identity(content.decode(errors="replace"))).name:
                return dataclasses.replace(
                    record,
                    pod_name=identity.name[:253],
                    pod_namespace=identity.namespace[:63],
                    pod_uid=record.pod_uid or identity.uid[:64],
                )
        return record

    def sweep(self) -> int:
        """Drop the rows of pods that ended without an unpublish; return their number."""
        dropped = 0
        for record in self._volumes.all():
            try:
                with self._calls.hold(record.id, "a sweep"):
                    current = self._volumes.get(record.id)
                    if current is not None and not self._is_mounted(current) and self._is_pod_gone(current):
                        self._drop(record.id)
                        dropped += 1
            except CallInFlightError:
                continue
        self._discard_leftovers()
        return dropped

    def _discard_leftovers(self) -> None:
        """Discard directories that an unpublish could not discard, on a disk that was read-only then."""
        leftovers = [volume for volume in self._list_directories() if self._volumes.get(volume) is None]
        if not leftovers:
            return
        views = {view.volume for view in mounted_views.find(mount_table.read(), self._data)}
        for volume in leftovers:
            with contextlib.suppress(CallInFlightError), self._calls.hold(volume, "a sweep"):
                if volume not in views and self._volumes.get(volume) is None:
                    self._discard(volume)

    def count_remaining(self) -> int:
        """Return how many volumes kubelet still has to unpublish: with a view, an empty one, or none yet.

        The kernel decides, not the row: a volume remains while it is mounted or its directory exists.
        """
        return sum(self._is_mounted(record) or not self._is_pod_gone(record) for record in self._volumes.all())

    def _drop(self, volume: VolumeId) -> None:
        self._discard(volume)
        self._volumes.drop(volume)

    def _discard(self, volume: VolumeId) -> None:
        """Discard a volume's directory; on a read-only disk it stays for a later sweep."""
        try:
            self._data.discard(self._data.volume(volume).root)
        except OSError as error:
            log.warning("volume's directory not discarded", extra=logs.fields(volume=volume, reason=error.strerror))

    def _is_own(self, view: MountedView) -> bool:
        """Return whether a view is of the volume that its mount names: only the server mounts overlays of its paths."""
        if view.is_overlay:
            return True
        try:
            return os.path.samestat(os.stat(view.mount.target), os.stat(self._data.volume(view.volume).upper))
        except OSError:
            return False

    def _is_mounted(self, record: VolumeRecord) -> bool:
        try:
            with self._mounts.open_target(TargetPath(record.target)) as target:
                return target.is_mounted()
        except (DriverError, OSError):
            return True  # An unreadable target is left alone.

    def _is_pod_gone(self, record: VolumeRecord) -> bool:
        try:
            with self._mounts.open_target(TargetPath(record.target)) as target:
                return not target.is_reachable
        except (DriverError, OSError):
            return False
