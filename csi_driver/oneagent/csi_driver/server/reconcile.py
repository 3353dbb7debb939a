"""Reconciliation of mounts, directories and rows after a crash, a reboot or a lost database.

It runs before the first request.

The mount table says what is mounted, and mounts of running pods are never touched: what is mounted and unknown
is adopted. A volume's folder that is neither mounted nor named by a row goes; kubelet will ask again. A row whose
pod is gone, which shows in kubelet's folder for the volume being gone, is dropped: kubelet would never unpublish it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir, TargetPath, UnsafeNameError, VolumeId, component
from oneagent.csi_driver.linux import mount_table, syscalls
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
    """`put` are rows to write, `drop` volumes whose pod is gone, `discard` volumes whose folder is nobody's."""

    put: list[VolumeRecord] = field(default_factory=list)
    drop: list[VolumeId] = field(default_factory=list)
    discard: list[VolumeId] = field(default_factory=list)


def plan(
    records: Iterable[VolumeRecord],
    overlays: Iterable[Overlay],
    folders: Iterable[VolumeId],
    mounted: Callable[[VolumeRecord], bool],
    pod_is_gone: Callable[[VolumeRecord], bool],
    data: DataDir,
) -> Plan:
    """Compare the three truths; touches nothing."""
    result = Plan()
    rows = {record.id: record for record in records}
    # Of several mounts of one view the whole one is last: parts of it are what kubelet binds for a subPath.
    whole_last = sorted(overlays, key=lambda overlay: overlay.mount.root == "/")
    views = {volume: overlay for overlay in whole_last if (volume := _volume(overlay, data)) is not None}
    for volume, overlay in views.items():
        if (adopted := _adopted(volume, overlay, rows.get(volume), data)) != rows.get(volume):
            result.put.append(adopted)
    for volume, row in rows.items():
        if volume in views:
            continue
        if mounted(row):
            if row.mode == "host" and row.state == VolumeState.WAITING:
                result.put.append(dataclasses.replace(row, state=VolumeState.MOUNTED, reason=""))
        elif pod_is_gone(row):
            result.drop.append(volume)
    result.discard += [volume for volume in folders if volume not in views and volume not in rows]
    return result


def _volume(overlay: Overlay, data: DataDir) -> VolumeId | None:
    return data.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))


def _adopted(volume: VolumeId, overlay: Overlay, row: VolumeRecord | None, data: DataDir) -> VolumeRecord:
    """The row as the mount has it: an older one, whose successor was never written, may tell of an earlier mount."""
    version = next((found for layer in overlay.lower if (found := data.version_of_layer(layer))), "")
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
    """Carries the plans out."""

    def __init__(self, data: DataDir, volumes: VolumeRepository, mounts: OverlayMounter, calls: InFlightCalls) -> None:
        self._data = data
        self._volumes = volumes
        self._mounts = mounts
        self._calls = calls

    def at_start(self) -> None:
        """Before the first request: nothing else touches volumes yet."""
        started = time.perf_counter()
        overlays = mount_table.overlays(mount_table.read())
        folders = self._volume_folders()
        found = plan(self._volumes.all(), overlays, folders, self._is_mounted, self._pod_is_gone, self._data)
        for record in found.put:
            self._volumes.put(dataclasses.replace(self._named(record), changed_at=time.time()))
        for volume in found.discard:
            self._data.discard(self._data.volume(volume).root)
        for volume in found.drop:
            self._drop(volume)
        log.info(
            "reconciled",
            extra=logs.facts(
                rows=len(self._volumes.all()),
                adopted_or_undone=len(found.put),
                dropped=len(found.drop),
                discarded=len(found.discard),
                seconds=round(time.perf_counter() - started, 3),
            ),
        )

    def _volume_folders(self) -> list[VolumeId]:
        """All that lies in the folder of volumes, but for what can't be one's."""
        folders = []
        for entry in self._data.volumes.iterdir():
            try:
                folders.append(VolumeId(component(entry.name, "volume id")))
            except UnsafeNameError:
                log.warning("leaving alone what is no volume", extra=logs.facts(path=entry))
        return folders

    def _named(self, record: VolumeRecord) -> VolumeRecord:
        """Add the pod's name from its view. For people only: the pod may have changed that file."""
        if record.pod_name or record.mode != "app":
            return record
        try:
            upper = os.open(self._data.volume(record.id).upper, os.O_PATH | os.O_CLOEXEC)
            try:
                resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
                descriptor = syscalls.openat2(upper, IDENTITY_FILE, os.O_RDONLY | os.O_NONBLOCK, resolve)
            finally:
                os.close(upper)
            with os.fdopen(descriptor, "rb") as file:
                lines = file.read(4096).decode(errors="replace").splitlines()
        except OSError:
            return record
        told = dict(line.split(" ", 1) for line in lines if " " in line)
        return dataclasses.replace(
            record,
            pod_name=told.get("k8s_fullpodname", "")[:253],
            pod_namespace=told.get("k8s_namespace", "")[:63],
            pod_uid=record.pod_uid or told.get("k8s_poduid", "")[:64],
        )

    def sweep(self) -> int:
        """Drop the rows of pods that went away without an unpublish; return their number."""
        dropped = 0
        for record in self._volumes.all():
            try:
                with self._calls.hold(record.id, "a sweep"):
                    current = self._volumes.get(record.id)
                    if current is not None and not self._is_mounted(current) and self._pod_is_gone(current):
                        self._drop(record.id)
                        dropped += 1
            except CallInFlightError:
                continue
        return dropped

    def left(self) -> int:
        """How many volumes kubelet has still to take back: with a view, an empty one, or none yet.

        Each is looked up in the kernel, not in its row: what is mounted, or has its folder, is still there.
        """
        return sum(self._is_mounted(record) or not self._pod_is_gone(record) for record in self._volumes.all())

    def _drop(self, volume: VolumeId) -> None:
        self._data.discard(self._data.volume(volume).root)
        self._volumes.drop(volume)

    def _is_mounted(self, record: VolumeRecord) -> bool:
        try:
            with self._mounts.at(TargetPath(record.target)) as target:
                return target.mounted()
        except (DriverError, OSError):
            return True  # What can't be looked at is left alone.

    def _pod_is_gone(self, record: VolumeRecord) -> bool:
        try:
            with self._mounts.at(TargetPath(record.target)) as target:
                return not target.reachable
        except (DriverError, OSError):
            return False
