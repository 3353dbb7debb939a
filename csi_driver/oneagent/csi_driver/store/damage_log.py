"""Notes of damage: when a version was taken out of the store because its files were not what they had been.

A damaged version leaves the store by one rename, as every version does, so a publish needs to know nothing of it: it
waits as for a version that was never there, and `agents/` stays the one truth of what may be mounted. Views that
are mounted keep the tree, which no rename takes from them; it lies in the trash for as long as the mount table names
a version of its name. That costs one copy of the version until the last view of either tree is gone, and no pod
loses a file that it reads.

What the mount table can't tell is which views have the damaged tree: their lower layer's path is that of the version
that was installed anew. So the moment is written down, while the store's exclusive lease keeps mounts from being
made. A volume's folder gets its change time from the rename that begins its publish. One that is older than the note
has the damaged tree; this holds after a restart and without the database.
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
class Damage:
    """`at` is when the version left the store (seconds since the epoch), `message` what was wrong with it."""

    at: float
    message: str


def record(folder: DataDir, version: Version, damage: Damage) -> None:
    """Write a note, durably; an older one of the same version is covered by it."""
    fsync.replace(folder.corruption_record(version), json.dumps({"at": damage.at, "message": damage.message}).encode())


def read(folder: DataDir, version: Version) -> Damage | None:
    """The note of a version, None if it was never damaged. One that can't be read counts as none."""
    try:
        found = json.loads(folder.corruption_record(version).read_bytes())
        return Damage(float(found["at"]), str(found["message"]))
    except (OSError, UnsafeNameError, ValueError, TypeError, KeyError):
        return None


def for_volume(folder: DataDir, volume: VolumeId, version: Version) -> str:
    """What is wrong with the tree that a volume's view lies on; empty if it has a whole one."""
    found = read(folder, version)
    if found is None:
        return ""
    try:
        begun = os.lstat(folder.volume(volume).root).st_ctime
    except (OSError, UnsafeNameError):
        return ""
    return found.message if begun < found.at else ""


def list_versions(folder: DataDir) -> list[Version]:
    """The versions with a note."""
    with contextlib.suppress(OSError):
        return sorted(Version(name.removesuffix(".json")) for name in os.listdir(folder.corrupt) if name[0] != ".")
    return []


def prune(
    folder: DataDir, volumes: Collection[VolumeRecord], stored: Collection[Version], needed: Collection[Version]
) -> None:
    """Remove the notes that have been answered: no volume has the damaged tree, and nobody waits for a whole one."""
    for version in list_versions(folder):
        waiting = version in needed and version not in stored
        mounted = any(for_volume(folder, row.id, version) for row in volumes if row.version == version)
        if not waiting and not mounted:
            folder.corruption_record(version).unlink(missing_ok=True)


def undo_unfinished(folder: DataDir, stored: Iterable[Version]) -> list[Version]:
    """Remove the notes of versions that never left, since the process ended in between; which ones these were."""
    undone = []
    for version in stored:
        found = read(folder, version)
        # As with volumes: the version's folder has its change time from the rename into the store.
        if found is not None and os.lstat(folder.agent(version)).st_ctime < found.at:
            folder.corruption_record(version).unlink(missing_ok=True)
            undone.append(version)
    return undone
