"""Status of one node, joined from mount table, agent store and metadata database.

Reads only, and always returns a status: unreadable parts are listed, the others are still shown. Without a database
the versions come from the store, the views from the mount table, and the DynaKubes from the copy that the provisioner
leaves for the server. Where two differ the mount table is right: the server writes the row of a mount a moment after
its answer.
"""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from oneagent.common import agents, node_report
from oneagent.common.identifiers import Version
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli.status import MISSING, UNRECORDED
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.linux import disk_usage, process
from oneagent.csi_driver.linux import mount_table as linux_mount_table
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata import readonly
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.readonly import MetadataSnapshot
from oneagent.csi_driver.metadata.states import VersionState, VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.store import mounted_views
from oneagent.csi_driver.store.mounted_views import MountedView


def collect_status(data: DataDir, mount_table: Path, *, now: float) -> node_report.NodeStatus:
    """Read the status of the node, without its problems; see `problems.add_problems`."""
    unreadable = []
    try:
        stored = {
            version
            for entry in os.scandir(data.agents)
            if entry.is_dir() and (version := _version_of_directory(entry.name))
        }
    except OSError as error:
        unreadable.append(f"the agent store {data.agents} can't be read: {error.strerror}")
        stored = set()
    try:
        mounts: list[Mount] | None = linux_mount_table.read(mount_table)
    except (OSError, ValueError) as error:
        unreadable.append(f"the mount table {mount_table} can't be read: {error}")
        mounts = None
    rows = readonly.read(data)
    if rows.problem:
        unreadable.append(f"{rows.problem} ({data.database})")
    # Parts of a view are what kubelet binds for a subPath.
    views = {view.volume: view for view in mounted_views.find(mounts or [], data) if view.whole and view.is_complete}
    return node_report.NodeStatus(
        data_dir=str(data.root),
        taken_at=now,
        metadata=rows.state,
        set_aside=tuple(sorted(str(path) for path in data.root.glob(f"{data.database.name}.aside-*[0-9]"))),
        running=node_report.Running(
            process.is_locked(data.server_lock), process.is_locked(data.root / "provisioner.lock")
        ),
        versions=_versions(data, stored, rows, views.values()),
        volumes=_volumes(rows, mounts, views),
        failures=tuple(_failure(row) for row in rows.volumes if _has_failed(row) and row.id not in views),
        dynakubes=tuple(_dynakube(row, stored) for row in sorted(rows.dynakubes, key=lambda row: row.name)),
        disk=_disk(data),
        unreadable=tuple(unreadable),
    )


def _version_of_directory(name: str) -> Version | None:
    """Return the version that a directory of the store holds, None for a foreign directory."""
    try:
        return Version(data_dir.component(name, "agent version"))
    except data_dir.UnsafeNameError:
        return None


def _versions(
    data: DataDir, stored: set[Version], rows: MetadataSnapshot, views: Iterable[MountedView]
) -> tuple[node_report.VersionStatus, ...]:
    records = {row.version: row for row in rows.versions}
    mounted = Counter(view.version for view in views if view.version)
    desired = {row.version for row in rows.dynakubes if row.version}
    return tuple(
        _version(
            data,
            version,
            records.get(version),
            version in stored,
            mounted[version],
            tuple(sorted(row.name for row in rows.dynakubes if row.version == version)),
        )
        for version in sorted({*stored, *records, *mounted, *desired})
    )


def _version(
    data: DataDir,
    version: Version,
    row: VersionRecord | None,
    stored: bool,
    views: int,
    wanted_by: tuple[str, ...],
) -> node_report.VersionStatus:
    state: str = MISSING
    if stored:
        is_complete = agents.of_tree(data.agent(version)) is not None
        state = VersionState.READY if is_complete else VersionState.CORRUPT
    elif row is not None and row.state != VersionState.READY:
        state = row.state
    size = row.size_bytes if row is not None else 0
    return node_report.VersionStatus(
        version=version,
        state=state,
        size_bytes=size or (disk_usage.total_bytes(data.agent(version)) if stored else 0),
        views=views,
        wanted_by=wanted_by,
        installed_at=(row.installed_at or None) if row is not None else None,
        last_used_at=(row.last_used_at or None) if row is not None else None,
        message=row.message if row is not None else "",
        downloaded_bytes=_downloaded_bytes(data, version) if state == VersionState.DOWNLOADING else 0,
    )


def _downloaded_bytes(data: DataDir, version: Version) -> int:
    """Return the bytes on disk of a version's download, which may have holes; 0 if there are none or they just went."""
    total = 0
    for file in data.tmp.glob(f"{glob.escape(version)}*.part"):
        try:
            status = file.lstat()
        except OSError:
            continue
        total += status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else 0
    return total


def _volumes(
    rows: MetadataSnapshot, mounts: list[Mount] | None, views: Mapping[VolumeId, MountedView]
) -> tuple[node_report.VolumeStatus, ...]:
    targets = {mount.target for mount in mounts or []}
    known = [_volume(row, row.id in views, None if mounts is None else row.target in targets) for row in rows.volumes]
    unknown = [_unrecorded(views[volume]) for volume in views.keys() - {row.id for row in rows.volumes}]
    return tuple(sorted([*known, *unknown], key=lambda volume: (volume.namespace, volume.pod, volume.id)))


def _volume(row: VolumeRecord, has_view: bool, mounted: bool | None) -> node_report.VolumeStatus:
    return node_report.VolumeStatus(
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


def _unrecorded(view: MountedView) -> node_report.VolumeStatus:
    return node_report.VolumeStatus(
        id=view.volume,
        namespace="",
        pod="",
        dynakube="",
        mode="app",
        version=view.version,
        state=UNRECORDED,
        mounted=True,
        read_only=view.read_only,
        target=view.mount.target,
        since=None,
    )


def _has_failed(row: VolumeRecord) -> bool:
    return row.attempts > 0 or row.state == VolumeState.EMPTY


def _failure(row: VolumeRecord) -> node_report.Failure:
    return node_report.Failure(
        volume=row.id,
        namespace=row.pod_namespace,
        pod=row.pod_name,
        dynakube=row.dynakube,
        attempts=row.attempts,
        first_failed_at=row.first_failed_at or None,
        empty=row.state == VolumeState.EMPTY,
        reason=row.reason,
    )


def _dynakube(row: DesiredState, stored: set[Version]) -> node_report.DynaKubeStatus:
    return node_report.DynaKubeStatus(
        name=row.name,
        tenant=row.tenant,
        version=row.version,
        in_store=row.version in stored,
        condition=row.condition,
        since=row.changed_at or None,
        configured=bool(row.layer),
    )


def _disk(data: DataDir) -> node_report.Disk | None:
    try:
        filesystem = os.statvfs(data.root)
    except OSError:
        return None
    return node_report.Disk(
        store_bytes=_store_bytes(data),
        volumes_bytes=_bytes_below(data.volumes),
        logs_bytes=_bytes_below(data.logs),
        trash_bytes=_bytes_below(data.trash),
        tmp_bytes=_bytes_below(data.tmp),
        free_bytes=filesystem.f_bavail * filesystem.f_frsize,
        total_bytes=filesystem.f_blocks * filesystem.f_frsize,
        free_inodes=filesystem.f_favail,
        total_inodes=filesystem.f_files,
    )


def _store_bytes(data: DataDir) -> int:
    """Return the bytes of all versions; a file that they share counts once."""
    try:
        return disk_usage.total_bytes(*(entry.path for entry in os.scandir(data.agents)))
    except OSError:
        return 0


def _bytes_below(directory: Path) -> int:
    """Return the bytes below a directory that pods wrote to, without the directory itself."""
    try:
        return sum(disk_usage.measure(entry.path).size_bytes for entry in os.scandir(directory))
    except OSError:
        return 0
