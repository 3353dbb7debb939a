"""Disk usage of the store; a file that several versions share counts once.

A file that versions share (see `unpack.dedup`) is freed by the last of them only. So a removal frees less than
the version's size, and a sum of sizes would exceed the disk usage.
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


def list_shareable(data: DataDir, store: AgentStore) -> dedup.ExistingFiles:
    """Return the files that a new version can share; none of versions with an unreadable manifest."""
    found = []
    for version in store.versions():
        try:
            found.append((Path(data.agent(version)), file_manifest.Manifest.load(data.manifest(version))))
        except file_manifest.TreeManifestError:
            continue
    return dedup.ExistingFiles(found)


class StoreUsage:
    """Thread-safe. Versions never change, so the total is counted again only after one came or went."""

    def __init__(self, data: DataDir, store: AgentStore) -> None:
        self._data = data
        self._store = store
        self._guard = threading.Lock()
        self._counted: tuple[int, int] | None = None

    def total_bytes(self) -> int:
        """Bytes of all versions together."""
        with self._guard:
            changed_at = os.stat(self._data.agents).st_mtime_ns
            if self._counted is None or self._counted[0] != changed_at:
                # Read before the count: a version that comes meanwhile counts the next time.
                self._counted = (changed_at, disk_usage.total_bytes(*map(self._data.agent, self._store.versions())))
            return self._counted[1]

    def by_version(self) -> Mapping[Version, Mapping[int, int]]:
        """The files of each version: bytes on disk by inode."""
        return {version: disk_usage.bytes_by_inode(self._data.agent(version)) for version in self._store.versions()}


def bytes_without(versions: Mapping[Version, Mapping[int, int]], gone: Collection[Version]) -> int:
    """Return the bytes of all versions but these."""
    left: dict[int, int] = {}
    for version, files in versions.items():
        if version not in gone:
            left.update(files)
    return sum(left.values())
