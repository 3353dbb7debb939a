"""The trash: what was moved there is deleted here, unless the mount table shows that somebody still has it.

What pods wrote is in it, so it is deleted like something hostile: no link is followed, one entry that can't be
deleted holds up no other, and a tree that is deeper than any stack or path is flattened on the way: its folders
are moved up before they are emptied.
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

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Held:
    """What mounts may still need: `names` that entries had before, and `entries` of the trash itself."""

    names: frozenset[str]
    entries: frozenset[str]

    def holds(self, entry: str) -> bool:
        return entry in self.entries or entry.rpartition(".")[0] in self.names


def held(mounts: Iterable[Mount], trash: str) -> Held:
    """Layers by the names of versions, config layers and volumes; entries as targets and as sources of bind mounts.

    A source shows as a path within its file system, which may begin elsewhere than ours; so whatever looks like a
    path through the trash counts.
    """
    names, entries = set[str](), set[str]()
    for mount in mounts:
        for path in (mount.root, mount.target):
            entries |= {part.partition("/")[0] for part in path.split(f"/{trash}/")[1:]}
        if overlay := mount_table.as_overlay(mount):
            for layer in (*overlay.lower, overlay.upper or ""):
                above, _, name = layer.rpartition("/")
                names |= {name, above.rpartition("/")[2]}
    return Held(frozenset(names), frozenset(entries))


class Trash:
    """Thread-safe: one at a time empties it."""

    def __init__(self, folder: DataDir, mounts: Callable[[], list[Mount]], failpoint: Callable[[str], None]) -> None:
        self._folder = folder
        self._mounts = mounts
        self._failpoint = failpoint
        self._emptying = threading.Lock()

    def empty(self) -> int:
        """Delete what nobody has; the bytes that gave back. `OSError`, `ValueError` if nobody can tell who has what."""
        with self._emptying:
            entries = list(self._folder.trash.iterdir())
            if not entries:
                return 0
            used = held(self._mounts(), self._folder.trash.name)
            freed = 0
            for entry in entries:
                if used.holds(entry.name):
                    continue
                try:
                    freed += self._delete(entry)
                except OSError as error:
                    log.warning("trash can't be deleted", extra=logs.facts(entry=entry.name, reason=error))
            return freed

    def _delete(self, entry: Path) -> int:
        """Delete a file or a folder with all that is in it; the bytes it took."""
        status = entry.lstat()
        freed = status.st_blocks * 512
        if not stat.S_ISDIR(status.st_mode):
            entry.unlink()
            return _freed(status)
        top = os.open(entry, _FOLDER)
        try:
            freed += self._delete_below(top)
        finally:
            os.close(top)
        entry.rmdir()
        return freed

    def _delete_below(self, top: int) -> int:
        freed, pending = self._delete_files(top)
        taken = set(pending)
        while pending:
            name = pending.pop()
            inner = os.open(name, _FOLDER, dir_fd=top)
            try:
                size, folders = self._delete_files(inner)
                freed += size
                for found in folders:
                    moved = str(len(taken))
                    while moved in taken:
                        moved += "_"
                    os.rename(found, moved, src_dir_fd=inner, dst_dir_fd=top)
                    taken.add(moved)
                    pending.append(moved)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
        return freed

    def _delete_files(self, folder: int) -> tuple[int, list[str]]:
        """Delete everything but folders: the bytes it took, and the folders."""
        freed, folders = 0, []
        for name in os.listdir(folder):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
                continue
            os.unlink(name, dir_fd=folder)
            freed += _freed(status)
            self._failpoint("deleting")
        return freed, folders


def _freed(status: os.stat_result) -> int:
    """What a file gives back: nothing while it has other names, as one that versions share."""
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
