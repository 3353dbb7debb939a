"""What the store takes on the disk, each file counted once however many versions have it.

A file that versions share (see `packages.sharing`) is freed by the last of them only. So what a removal gives back is
not the version's size, and a sum of sizes would be more than the disk holds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from oneagent.common.identifiers import Version
from oneagent.common.unpack import dedup, file_manifest
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage
from oneagent.csi_driver.store import AgentStore


def present(folder: DataDir, store: AgentStore) -> dedup.ExistingFiles:
    """The files that a new version can share. Of a version whose manifest can't be read it shares none."""
    found = []
    for version in store.versions():
        try:
            found.append((Path(folder.agent(version)), file_manifest.Manifest.load(folder.manifest(version))))
        except file_manifest.TreeManifestError:
            continue
    return dedup.ExistingFiles(found)


class Occupancy:
    """Thread-safe. Versions never change, so the total is counted again only after one came or went."""

    def __init__(self, folder: DataDir, store: AgentStore) -> None:
        self._folder = folder
        self._store = store
        self._guard = threading.Lock()
        self._counted: tuple[int, int] | None = None

    def bytes(self) -> int:
        """What all versions take together."""
        with self._guard:
            changed_at = os.stat(self._folder.agents).st_mtime_ns
            if self._counted is None or self._counted[0] != changed_at:
                # Asked before the counting: a version that comes meanwhile is counted the next time.
                self._counted = (changed_at, disk_usage.total_bytes(*map(self._folder.agent, self._store.versions())))
            return self._counted[1]

    def by_version(self) -> Mapping[Version, Mapping[int, int]]:
        """The files of each version: bytes on disk by inode."""
        return {version: disk_usage.bytes_by_inode(self._folder.agent(version)) for version in self._store.versions()}


def without(versions: Mapping[Version, Mapping[int, int]], gone: Collection[Version]) -> int:
    """What all but these versions take together."""
    left: dict[int, int] = {}
    for version, files in versions.items():
        if version not in gone:
            left.update(files)
    return sum(left.values())
