"""The agent store: what is installed is a folder here, complete and immutable.

A version appears by one rename of a finished, synced folder and goes by one rename into the trash. Between
"the version is there" and "it is mounted" a publish holds a shared lease on the store; removal needs the
exclusive one, so a version can't go while a mount of it is being made, and afterwards the mount table shows it.
The lease is a flock(2): it ends with the process that held it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from oneagent.common.identifiers import Version
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import DataDir


class StoreBusyError(Exception):
    """A mount is being made just now; removal has to come back later."""


class Lease:
    """A lock on the store, held until the block ends."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: str, how: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, how)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class AgentStore:
    """The versions on this node. Needs no state of its own: the folder is the truth."""

    def __init__(self, folder: DataDir) -> None:
        self._folder = folder
        self._lock_path = str(folder.agents)

    def has(self, version: Version) -> bool:
        return bool(version) and os.path.isdir(self._folder.agent(version))

    def versions(self) -> list[Version]:
        """Folders whose names no version can have are somebody else's."""
        with os.scandir(self._folder.agents) as entries:
            return sorted(
                Version(entry.name) for entry in entries if entry.is_dir() and data_dir.is_component(entry.name)
            )

    def lease(self) -> Lease:
        """While held, nothing is removed from the store. Shared: any number of publishes at once."""
        return Lease(self._lock_path, fcntl.LOCK_SH)

    def removal(self) -> Lease:
        """While held, no mount is being made; `StoreBusyError` if one is."""
        try:
            return Lease(self._lock_path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreBusyError("a mount is being made") from error

    def add(self, version: Version, tree: Path) -> None:
        """Make a finished, synced tree visible under the version's name; `FileExistsError` if one is there."""
        place = Path(self._folder.agent(version))
        if place.exists():
            raise FileExistsError(f"version {version} is in the store already")
        tree.rename(place)
        sync_folder(place.parent)

    def remove(self, version: Version) -> bool:
        """Take a version out of the store. Call it with `removal` held, after asking whether it is in use."""
        removed = self._folder.discard(self._folder.agent(version))
        # After the version: a version in the store always has its manifest.
        self._folder.discard(self._folder.manifest(version))
        return removed


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
