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

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId, is_component
from oneagent.csi_driver.linux import mount_table, tree_walker
from oneagent.csi_driver.linux.mount_table import Overlay
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.server.errors import CallInFlightError, DriverError
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.mount_target import IDENTITY_FILE
from oneagent.csi_driver.server.overlay import OverlayMounter

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
    overlays: Iterable[Overlay],
    directories: Iterable[VolumeId],
    is_mounted: Callable[[VolumeRecord], bool],
    is_pod_gone: Callable[[VolumeRecord], bool],
    data: DataDir,
) -> Plan:
    """Compare rows, mounts and directories; changes nothing."""
    result = Plan()
    rows = {record.id: record for record in records}
    # Of several mounts of one view the mount of its root is last: kubelet binds parts of it for a subPath.
    roots_last = sorted(overlays, key=lambda overlay: overlay.mount.root == "/")
    views = {volume: overlay for overlay in roots_last if (volume := _volume_of(overlay, data)) is not None}
    places = {(_volume_of(overlay, data), overlay.mount.target) for overlay in roots_last if overlay.mount.root == "/"}
    for volume, overlay in views.items():
        adopted = _adopt(volume, overlay, rows.get(volume), data)
        if overlay.mount.root == "/" and (volume, adopted.target) not in places:
            # The row is of a call with another target, which failed before the one that mounted.
            adopted = dataclasses.replace(adopted, target=overlay.mount.target)
        if adopted != rows.get(volume):
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


def _volume_of(overlay: Overlay, data: DataDir) -> VolumeId | None:
    return data.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))


def _adopt(volume: VolumeId, overlay: Overlay, row: VolumeRecord | None, data: DataDir) -> VolumeRecord:
    """Return the row for a mount. The given row may describe an earlier mount, if its successor was never written."""
    version = next((lower for layer in overlay.lower if (lower := data.version_of_layer(layer))), "")
    layer = next((layer for layer in overlay.lower if layer.startswith(f"{data.config_layers}/")), "")
    tenant, _, layer_id = layer.removeprefix(f"{data.config_layers}/").partition("/")
    if row is not None:
        return dataclasses.replace(
            row,
            state=VolumeState.MOUNTED,
            version=version,
            tenant=tenant or row.tenant,
            layer=layer_id,
            attempts=0,
            first_failed_at=0.0,
            reason=row.reason if row.state == VolumeState.MOUNTED else "",
        )
    pod = _POD_UID.search(overlay.mount.target)
    return VolumeRecord(
        id=volume,
        mode="app",
        dynakube="",
        target=overlay.mount.target,
        state=VolumeState.MOUNTED,
        version=version,
        tenant=tenant,
        layer=layer_id,
        read_only=overlay.upper is None,
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
        overlays = [self._as_requested(overlay) for overlay in mount_table.overlays(mount_table.read())]
        directories = self._list_directories()
        changes = plan(self._volumes.all(), overlays, directories, self._is_mounted, self._is_pod_gone, self._data)
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

    def _as_requested(self, overlay: Overlay) -> Overlay:
        target = self._mounts.requested_path(overlay.mount.target)
        if target == overlay.mount.target:
            return overlay
        return dataclasses.replace(overlay, mount=dataclasses.replace(overlay.mount, target=target))

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
        try:
            content = tree_walker.read_file(self._data.volume(record.id).upper, IDENTITY_FILE, 4096)
        except OSError:
            return record
        lines = content.decode(errors="replace").splitlines()
        identity = dict(line.split(" ", 1) for line in lines if " " in line)
        return dataclasses.replace(
            record,
            pod_name=identity.get("k8s_fullpodname", "")[:253],
            pod_namespace=identity.get("k8s_namespace", "")[:63],
            pod_uid=record.pod_uid or identity.get("k8s_poduid", "")[:64],
        )

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
        views = {_volume_of(overlay, self._data) for overlay in mount_table.overlays(mount_table.read())}
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
