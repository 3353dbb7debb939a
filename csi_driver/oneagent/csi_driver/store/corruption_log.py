"""Corruption records: when a version was quarantined because its files had changed.

A corrupt version leaves the store by one rename, as every version does, so a publish needs no special case: it
waits as for a version that was never there, and `agents/` stays the one truth of what may be mounted. Views that
are mounted keep the tree, which no rename takes from them; it lies in the trash for as long as the mount table names
a version of its name. That costs one copy of the version until the last view of either tree is gone, and no pod
loses a file that it reads.

The mount table can't tell which views have the corrupt tree: their lower layer's path is that of the version
that was installed again. So the time is recorded, while the store's exclusive lease keeps mounts from being
made. A volume's directory gets its change time from the rename that begins its publish. One older than the record
has the corrupt tree; this holds after a restart and without the database.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from oneagent.common import fsync
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError, VolumeId
from oneagent.csi_driver.metadata.volumes import VolumeRecord


@dataclass(frozen=True, slots=True)
class Corruption:
    """`at`: when the version left the store (seconds since the epoch); `message`: the findings."""

    at: float
    message: str


def record(data: DataDir, version: Version, corruption: Corruption) -> None:
    """Write a record durably; it replaces an older one of the version."""
    fsync.replace(
        data.corruption_record(version), json.dumps({"at": corruption.at, "message": corruption.message}).encode()
    )


def read(data: DataDir, version: Version) -> Corruption | None:
    """Return the record of a version; None without one, or if it is unreadable."""
    try:
        found = json.loads(data.corruption_record(version).read_bytes())
        return Corruption(float(found["at"]), str(found["message"]))
    except (OSError, UnsafeNameError, ValueError, TypeError, KeyError):
        return None


def for_volume(data: DataDir, volume: VolumeId, version: Version) -> str:
    """Return the findings in the tree below a volume's view; empty for an intact one."""
    found = read(data, version)
    if found is None:
        return ""
    try:
        begun = os.lstat(data.volume(volume).root).st_ctime
    except (OSError, UnsafeNameError):
        return ""
    return found.message if begun < found.at else ""


def list_versions(data: DataDir) -> list[Version]:
    """List the versions with a record."""
    with contextlib.suppress(OSError):
        return sorted(Version(name.removesuffix(".json")) for name in os.listdir(data.corrupt) if name[0] != ".")
    return []


def prune(
    data: DataDir, volumes: Collection[VolumeRecord], stored: Collection[Version], needed: Collection[Version]
) -> None:
    """Remove records that are settled: no volume has the corrupt tree, and no DynaKube waits for an intact one."""
    for version in list_versions(data):
        waiting = version in needed and version not in stored
        mounted = any(for_volume(data, row.id, version) for row in volumes if row.version == version)
        if not waiting and not mounted:
            data.corruption_record(version).unlink(missing_ok=True)


def undo_unfinished(data: DataDir, stored: Iterable[Version]) -> list[Version]:
    """Remove records of versions that never left, because the process ended in between; return these versions."""
    undone = []
    for version in stored:
        found = read(data, version)
        # As with volumes: the version's directory has its change time from the rename into the store.
        if found is not None and os.lstat(data.agent(version)).st_ctime < found.at:
            data.corruption_record(version).unlink(missing_ok=True)
            undone.append(version)
    return undone
