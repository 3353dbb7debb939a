"""The trash: deletion of discarded entries that no mount uses any more.

Pods wrote some of them, so they are deleted like hostile input: no link is followed, and an entry that cannot be
deleted stops no other. A tree that is deeper than any stack or path is flattened on the way: its
directories are moved up before they are emptied.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.mount_table import Mount

log = logging.getLogger(__name__)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class MountReferences:
    """Entries that mounts may use: by their former `names`, and as `entries` of the trash."""

    names: frozenset[str]
    entries: frozenset[str]

    def is_used(self, entry: str) -> bool:
        return entry in self.entries or entry.rpartition(".")[0] in self.names


def find_references(mounts: Iterable[Mount], trash: str) -> MountReferences:
    """Return the names of layers, and the entries of the trash that are targets or sources of bind mounts.

    A source shows as a path within its file system, whose root may not be that of the data directory. So anything
    that looks like a path through the trash counts.
    """
    names, entries = set[str](), set[str]()
    for mount in mounts:
        for path in (mount.root, mount.target):
            entries |= {part.partition("/")[0] for part in path.split(f"/{trash}/")[1:]}
        if overlay := mount_table.as_overlay(mount):
            for layer in (*overlay.lower, overlay.upper or ""):
                above, _, name = layer.rpartition("/")
                names |= {name, above.rpartition("/")[2]}
    return MountReferences(frozenset(names), frozenset(entries))


class Trash:
    """Thread-safe: one thread at a time empties it."""

    def __init__(self, data: DataDir, mounts: Callable[[], list[Mount]], failpoint: Callable[[str], None]) -> None:
        self._data = data
        self._mounts = mounts
        self._failpoint = failpoint
        self._emptying = threading.Lock()

    def empty(self) -> int:
        """Delete unused entries; return the freed bytes. `OSError`, `ValueError` if the mounts cannot be read."""
        with self._emptying:
            entries = list(self._data.trash.iterdir())
            if not entries:
                return 0
            used = find_references(self._mounts(), self._data.trash.name)
            freed = 0
            for entry in entries:
                if used.is_used(entry.name):
                    continue
                try:
                    freed += self._delete(entry)
                except OSError as error:
                    log.warning("trash entry not deleted", extra=logs.fields(entry=entry.name, reason=error))
            return freed

    def _delete(self, entry: Path) -> int:
        """Delete a file or a directory tree; return its bytes."""
        status = entry.lstat()
        freed = status.st_blocks * 512
        if not stat.S_ISDIR(status.st_mode):
            entry.unlink()
            return _freed(status)
        top = os.open(entry, _DIRECTORY)
        try:
            freed += self._delete_below(top)
        finally:
            os.close(top)
        entry.rmdir()
        return freed

    def _delete_below(self, top: int) -> int:
        freed, pending = self._delete_files(top)
        names = set(pending)
        while pending:
            name = pending.pop()
            inner = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                size, directories = self._delete_files(inner)
                freed += size
                for directory in directories:
                    moved = str(len(names))
                    while moved in names:
                        moved += "_"
                    os.rename(directory, moved, src_dir_fd=inner, dst_dir_fd=top)
                    names.add(moved)
                    pending.append(moved)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
        return freed

    def _delete_files(self, directory: int) -> tuple[int, list[str]]:
        """Delete everything but directories; return the freed bytes and the directories."""
        freed, directories = 0, []
        for name in os.listdir(directory):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                directories.append(name)
                continue
            os.unlink(name, dir_fd=directory)
            freed += _freed(status)
            self._failpoint("deleting")
        return freed, directories


def _freed(status: os.stat_result) -> int:
    """Return the freed bytes of a file: 0 while it has other hard links, like a file that versions share."""
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
