"""Evidence about one pod on its node: its row in the database, its view in the mount table, its processes.

Reads only, and always returns something: unreadable parts are listed, the others are still read.
"""

from __future__ import annotations

import os
from pathlib import Path

from oneagent.common import agents
from oneagent.common.identifiers import TenantId, Version
from oneagent.common.node_report import PodEvidence, View, Volume
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli.why import processes as why_processes
from oneagent.csi_driver.cli.why.processes import ProcessScan
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.linux import mount_table as linux_mount_table
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.metadata import readonly
from oneagent.csi_driver.metadata.readonly import MetadataSnapshot
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.store import config_layers, corruption_log, mounted_views
from oneagent.csi_driver.store.mounted_views import MountedView


def collect_evidence(
    data: DataDir, mount_table: Path, proc: Path, namespace: str, pod: str, uid: str = "", *, now: float
) -> PodEvidence:
    """Read the evidence, without a conclusion; see `diagnose.diagnose`.

    With a `uid` the processes of a pod without a volume are found too.
    """
    unreadable = []
    rows = readonly.read(data)
    if rows.problem:
        unreadable.append(f"{rows.problem} ({data.database})")
    row = _row(rows, namespace, pod)
    mounted: bool | None = None
    view: MountedView | None = None
    scan = ProcessScan((), sees_pods=False)
    if row is not None:
        try:
            table = linux_mount_table.read(mount_table)
            mounted = linux_mount_table.top_at(table, row.target) is not None
            views = (found for found in mounted_views.find(table, data) if found.mount.target == row.target)
            view = next((found for found in views if found.volume == row.id and found.is_complete), None)
        except (OSError, ValueError) as error:
            unreadable.append(f"the mount table {mount_table} can't be read: {error}")
    if row is not None and view is not None:
        try:
            scan = why_processes.find_processes(proc, view, row.target)
        except OSError as error:
            unreadable.append(f"the processes in {proc} can't be read: {error.strerror}")
    if row is None and uid:
        try:
            scan = why_processes.find_by_pod(proc, uid)
        except OSError as error:
            unreadable.append(f"the processes in {proc} can't be read: {error.strerror}")
    corruption = _corruption(data, row) if row is not None else ""
    return PodEvidence(
        namespace=namespace,
        pod=pod,
        taken_at=now,
        volume=_volume(row, rows) if row is not None else None,
        mounted=mounted,
        view=View(*view.layers) if view is not None else None,
        is_corrupt=bool(corruption),
        corruption=corruption,
        processes=scan.processes,
        sees_pods=scan.sees_pods,
        server_running=process.is_locked(data.server_lock),
        unreadable=tuple(unreadable),
        lacks_token=row is not None and view is not None and not _can_report(data, row),
    )


def _can_report(data: DataDir, row: VolumeRecord) -> bool:
    """Return whether the view's configuration has what agents need to report; a removed one is not known to lack it."""
    if row.mode != "app" or not row.dynakube or not row.layer:
        return True
    try:
        path = data.config_layer_path(TenantId(row.tenant), LayerId(row.layer))
    except data_dir.UnsafeNameError:
        return True
    return not os.path.isdir(path) or config_layers.is_complete(path, row.dynakube)


def _row(rows: MetadataSnapshot, namespace: str, pod: str) -> VolumeRecord | None:
    """Return the newest row: in a StatefulSet the volume of an earlier pod of this name may still exist."""
    own = (row for row in rows.volumes if (row.pod_namespace, row.pod_name) == (namespace, pod))
    return max(own, key=lambda row: row.changed_at, default=None)


def _volume(row: VolumeRecord, rows: MetadataSnapshot) -> Volume:
    return Volume(
        id=row.id,
        mode=row.mode,
        dynakube=row.dynakube,
        version=row.version,
        state=row.state,
        target=row.target,
        attempts=row.attempts,
        reason=row.reason,
        since=row.changed_at or None,
        condition=next((kube.condition for kube in rows.dynakubes if kube.name == row.dynakube), ""),
    )


def _corruption(data: DataDir, row: VolumeRecord) -> str:
    """Return how the version is corrupt. A removed one is intact where mounted; a stored one needs its library."""
    version = Version(row.version)
    if corruption := corruption_log.for_volume(data, row.id, version):
        return f"which was corrupted: {corruption}"
    try:
        tree = data.agent(version)
    except data_dir.UnsafeNameError:
        return ""
    is_incomplete = os.path.isdir(tree) and agents.of_tree(tree) is None
    return f"which lacks {agents.DEFAULT.preload_library} in the agent store" if is_incomplete else ""
