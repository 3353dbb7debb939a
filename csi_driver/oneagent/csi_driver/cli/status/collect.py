"""A look at one node, put together from the three truths: mount table, agent store, metadata database.

It only reads, and it always has an answer. What can't be read is named, and the rest is still shown:
without a database the versions come from the store, the views from the mount table, and the DynaKubes from the copy
that the provisioner leaves for the server. Where two truths differ the mount table is right: the server writes the
row of a mount a moment after its answer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from oneagent.common.identifiers import PRELOAD_LIBRARY, Version
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli.status import (
    MISSING,
    UNRECORDED,
    Disk,
    DynaKubeStatus,
    Failure,
    Running,
    Status,
    VersionStatus,
    VolumeStatus,
)
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.linux import disk_usage, process
from oneagent.csi_driver.linux import mount_table as linux_mount_table
from oneagent.csi_driver.linux.mount_table import Mount, Overlay
from oneagent.csi_driver.metadata import readonly
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.readonly import Recorded
from oneagent.csi_driver.metadata.states import VersionState, VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord


def look(folder: DataDir, mount_table: Path, *, now: float) -> Status:
    """One look at everything, without the judgement; see `problems.judge`."""
    unreadable = []
    try:
        stored = {version for entry in os.scandir(folder.agents) if entry.is_dir() and (version := _named(entry.name))}
    except OSError as error:
        unreadable.append(f"the agent store {folder.agents} can't be read: {error.strerror}")
        stored = set()
    try:
        mounts: list[Mount] | None = linux_mount_table.read(mount_table)
    except (OSError, ValueError) as error:
        unreadable.append(f"the mount table {mount_table} can't be read: {error}")
        mounts = None
    rows = readonly.read(folder)
    if rows.problem:
        unreadable.append(f"{rows.problem} ({folder.database})")
    # Parts of a view are what kubelet binds for a subPath.
    overlays = [overlay for overlay in linux_mount_table.overlays(mounts or []) if overlay.mount.root == "/"]
    views = {volume: overlay for overlay in overlays if (volume := _volume_of(overlay, folder))}
    return Status(
        data_dir=str(folder.root),
        taken_at=now,
        metadata=rows.state,
        set_aside=tuple(sorted(str(path) for path in folder.root.glob(f"{folder.database.name}.aside-*[0-9]"))),
        running=Running(process.is_held(folder.server_lock), process.is_held(folder.root / "provisioner.lock")),
        versions=_versions(folder, stored, rows, views.values()),
        volumes=_volumes(folder, rows, mounts, views),
        failures=tuple(_failure(row) for row in rows.volumes if _has_failed(row) and row.id not in views),
        dynakubes=tuple(_dynakube(row, stored) for row in sorted(rows.dynakubes, key=lambda row: row.name)),
        disk=_disk(folder),
        unreadable=tuple(unreadable),
    )


def _named(folder: str) -> Version | None:
    """The version that a folder of the store is, None for a folder that somebody else put there."""
    try:
        return Version(data_dir.component(folder, "agent version"))
    except data_dir.UnsafeNameError:
        return None


def _versions(
    folder: DataDir, stored: set[Version], rows: Recorded, overlays: Iterable[Overlay]
) -> tuple[VersionStatus, ...]:
    records = {row.version: row for row in rows.versions}
    mounted = Counter(
        version for overlay in overlays for layer in overlay.lower if (version := folder.version_of_layer(layer))
    )
    wanted = {row.version for row in rows.dynakubes if row.version}
    return tuple(
        _version(
            folder,
            version,
            records.get(version),
            version in stored,
            mounted[version],
            tuple(sorted(row.name for row in rows.dynakubes if row.version == version)),
        )
        for version in sorted({*stored, *records, *mounted, *wanted})
    )


def _version(
    folder: DataDir,
    version: Version,
    row: VersionRecord | None,
    stored: bool,
    views: int,
    wanted_by: tuple[str, ...],
) -> VersionStatus:
    state: str = MISSING
    if stored:
        whole = os.path.isfile(f"{folder.agent(version)}/{PRELOAD_LIBRARY}")
        state = VersionState.READY if whole else VersionState.DAMAGED
    elif row is not None and row.state != VersionState.READY:
        state = row.state
    size = row.size_bytes if row is not None else 0
    return VersionStatus(
        version=version,
        state=state,
        size_bytes=size or (disk_usage.on_disk(folder.agent(version)) if stored else 0),
        views=views,
        wanted_by=wanted_by,
        installed_at=(row.installed_at or None) if row is not None else None,
        last_used_at=(row.last_used_at or None) if row is not None else None,
        message=row.message if row is not None else "",
    )


def _volume_of(overlay: Overlay, folder: DataDir) -> VolumeId | None:
    return folder.volume_of_upper(overlay.upper or next(iter(overlay.lower), ""))


def _volumes(
    folder: DataDir, rows: Recorded, mounts: list[Mount] | None, views: Mapping[VolumeId, Overlay]
) -> tuple[VolumeStatus, ...]:
    targets = {mount.target for mount in mounts or []}
    known = [_volume(row, row.id in views, None if mounts is None else row.target in targets) for row in rows.volumes]
    unknown = [_unrecorded(folder, volume, views[volume]) for volume in views.keys() - {row.id for row in rows.volumes}]
    return tuple(sorted([*known, *unknown], key=lambda volume: (volume.namespace, volume.pod, volume.id)))


def _volume(row: VolumeRecord, has_view: bool, mounted: bool | None) -> VolumeStatus:
    return VolumeStatus(
        id=row.id,
        namespace=row.pod_namespace,
        pod=row.pod_name,
        dynakube=row.dynakube,
        mode=row.mode,
        version=row.version,
        state=VolumeState.MOUNTED if has_view else row.state,
        mounted=has_view or mounted,
        read_only=bool(row.read_only),
        target=row.target,
        since=row.changed_at or None,
    )


def _unrecorded(folder: DataDir, volume: VolumeId, overlay: Overlay) -> VolumeStatus:
    versions = (found for layer in overlay.lower if (found := folder.version_of_layer(layer)))
    return VolumeStatus(
        id=volume,
        namespace="",
        pod="",
        dynakube="",
        mode="app",
        version=next(versions, ""),
        state=UNRECORDED,
        mounted=True,
        read_only=overlay.upper is None,
        target=overlay.mount.target,
        since=None,
    )


def _has_failed(row: VolumeRecord) -> bool:
    return row.attempts > 0 or row.state == VolumeState.EMPTY


def _failure(row: VolumeRecord) -> Failure:
    return Failure(
        volume=row.id,
        namespace=row.pod_namespace,
        pod=row.pod_name,
        dynakube=row.dynakube,
        attempts=row.attempts,
        first_failed_at=row.first_failed_at or None,
        empty=row.state == VolumeState.EMPTY,
        reason=row.reason,
    )


def _dynakube(row: DesiredState, stored: set[Version]) -> DynaKubeStatus:
    return DynaKubeStatus(
        row.name, row.tenant, row.version, row.version in stored, row.condition, row.changed_at or None
    )


def _disk(folder: DataDir) -> Disk | None:
    try:
        filesystem = os.statvfs(folder.root)
    except OSError:
        return None
    return Disk(
        store_bytes=_inside(folder.agents),
        volumes_bytes=_inside(folder.volumes),
        logs_bytes=_inside(folder.logs),
        trash_bytes=_inside(folder.trash),
        tmp_bytes=_inside(folder.tmp),
        free_bytes=filesystem.f_bavail * filesystem.f_frsize,
        total_bytes=filesystem.f_blocks * filesystem.f_frsize,
    )


def _inside(folder: Path) -> int:
    """What is in a folder, without the folder itself: nothing is in an empty one."""
    try:
        return disk_usage.on_disk(*(entry.path for entry in os.scandir(folder)))
    except OSError:
        return 0
