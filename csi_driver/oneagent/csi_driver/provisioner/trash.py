"""The trash: deletion of discarded entries that no mount uses any more.

The mount table shows the path that a layer had when it was mounted, so an entry is held by its former path. A volume's
directory may exist again at that path, with a new upper layer: the view of a pod that outlived a reboot holds that one,
and not what was discarded.

Pods wrote some of them, so they are deleted like hostile input (see `tree_walker`), and an entry that cannot be
deleted stops no other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage, mount_table, tree_walker
from oneagent.csi_driver.linux.mount_table import Mount

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountReferences:
    """Entries that mounts may use: by their former `names`, and as `entries` of the trash."""

    names: frozenset[str]
    entries: frozenset[str]

    def is_used(self, entry: str) -> bool:
        return entry in self.entries or entry.rpartition(".")[0] in self.names


def find_references(mounts: Iterable[Mount], data: DataDir) -> MountReferences:
    """Return the names of discarded layers, and the entries of the trash that are targets or sources of bind mounts.

    A source shows as a path within its file system, whose root may not be that of the data directory. So anything
    that looks like a path through the trash counts.
    """
    names, entries = set[str](), set[str]()
    mounts = list(mounts)
    # A view is unmounted before its directory is discarded; parts of it that are bound for a subPath may stay.
    views = {mount.device for mount in mounts if mount.root == "/"}
    for mount in mounts:
        for path in (mount.root, mount.target):
            entries |= {part.partition("/")[0] for part in path.split(f"/{data.trash.name}/")[1:]}
        if overlay := mount_table.as_overlay(mount):
            for layer in (*overlay.lower, overlay.upper or ""):
                if not (mount.device in views and _is_in_place(layer, data)):
                    above, _, name = layer.rpartition("/")
                    names |= {name, above.rpartition("/")[2]}
    return MountReferences(frozenset(names), frozenset(entries))


def _is_in_place(layer: str, data: DataDir) -> bool:
    """Return whether a layer is of a volume whose directory exists, which is then what a view has mounted."""
    match layer.split("/"):
        case [*_, data.volumes.name, volume, _]:
            return (data.volumes / volume).is_dir()
        case _:
            return False


class Trash:
    """Thread-safe: one thread at a time empties it."""

    def __init__(self, data: DataDir, mounts: Callable[[], list[Mount]], failpoint: Callable[[str], None]) -> None:
        self._data = data
        self._mounts = mounts
        self._failpoint = failpoint
        self._emptying = threading.Lock()

    def size_bytes(self) -> int:
        """Return the bytes of the entries that are there."""
        return sum(disk_usage.measure(entry).size_bytes for entry in self._data.trash.iterdir())

    def empty(self) -> int:
        """Delete unused entries; return the freed bytes. `OSError`, `ValueError` if the mounts cannot be read."""
        with self._emptying:
            entries = list(self._data.trash.iterdir())
            if not entries:
                return 0
            used = find_references(self._mounts(), self._data)
            freed = 0
            for entry in entries:
                if used.is_used(entry.name):
                    continue
                try:
                    freed += tree_walker.remove(entry, on_file=lambda: self._failpoint("deleting"))
                except OSError as error:
                    log.warning("trash entry not deleted", extra=logs.fields(entry=entry.name, reason=error))
            return freed
