"""The agent store: a complete, immutable directory for each installed version.

A version appears by one rename of a finished, synced directory and goes by one rename into the trash. Between
"the version is there" and "it is mounted" a publish holds a shared lease on the store; removal needs the
exclusive one, so a version can't go while it is being mounted, and then the mount table shows it.
The lease is a flock(2): it ends with the process that held it. Nothing waits for it, since its holder may be stopped.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from oneagent.common.identifiers import StoreKey, Version
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import store_key


class StoreBusyError(Exception):
    """A removal is in progress, or, for a removal, a mount; retry later."""


class Lease:
    """A lock on the store, held until the block ends; `BlockingIOError` if another process has the opposite one."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: str, how: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, how | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class AgentStore:
    """The versions on this node. Stateless: the directory is authoritative."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._lock_path = str(data.agents)

    def has(self, version: Version) -> bool:
        """Return True for a tree whose name proves its content or source; trees of older drivers are never mounted."""
        return store_key.is_key(version) and os.path.isdir(self._data.agent(version))

    def versions(self) -> list[Version]:
        """List all versions, also those of older drivers; other directories are ignored."""
        with os.scandir(self._data.agents) as entries:
            return sorted(
                Version(entry.name) for entry in entries if entry.is_dir() and data_dir.is_component(entry.name)
            )

    def lease(self) -> Lease:
        """Prevent the removal of versions. Shared: any number of mounts at once. `StoreBusyError` during a removal."""
        try:
            return Lease(self._lock_path, fcntl.LOCK_SH)
        except BlockingIOError as error:
            raise StoreBusyError("the provisioner is removing versions from the store") from error

    def is_removing(self) -> bool:
        """Return whether a removal is in progress."""
        try:
            with self.lease():
                return False
        except StoreBusyError:
            return True
        except OSError:
            return False  # The next mount reports it.

    def removal(self) -> Lease:
        """Prevent mounts; `StoreBusyError` if one is in progress."""
        try:
            return Lease(self._lock_path, fcntl.LOCK_EX)
        except BlockingIOError as error:
            raise StoreBusyError("a mount is in progress") from error

    def add(self, version: StoreKey, tree: Path) -> None:
        """Publish a complete, synced tree under its key; `FileExistsError` if it exists."""
        place = Path(self._data.agent(version))
        if place.exists():
            raise FileExistsError(f"version {version} is in the store already")
        tree.rename(place)
        sync_directory(place.parent)

    def remove(self, version: Version) -> bool:
        """Remove a version from the store. Call it with `removal` held, after checking that it is unused."""
        removed = self._data.discard(self._data.agent(version))
        # After the version: a version in the store always has its manifest.
        self._data.discard(self._data.manifest(version))
        return removed


def sync_directory(directory: Path) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
