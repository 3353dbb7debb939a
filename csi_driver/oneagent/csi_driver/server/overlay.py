"""Views: one pod's overlay of a version. The plan is pure; `mount_target` executes it.

The layers of a view, topmost first:

* the volume's own upper, with the pod's configuration; in a read-only view the same directory is the topmost lower
  layer instead, and contains the directories for writable mounts
* the tenant's config layer, if there is one
* the version in the store

The agent's files are never copied: its directories are world-writable with the sticky bit (see
`oneagent.common.unpack.zip`), so writing creates new files in upper only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, TargetPath, Volume
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server import mount_target
from oneagent.csi_driver.server.mount_target import MountTarget, ViewPlan


def in_user_namespace(uid_map: str) -> bool:
    """Return whether `/proc/self/uid_map` is that of a user namespace."""
    return uid_map.split() != ["0", "0", "4294967295"]


class OverlayMounter:
    """Plans views and opens targets below the target root. Stateless: the mount table is authoritative."""

    def __init__(self, data: DataDir, target_root: Path, *, user_namespace: bool) -> None:
        self._data = data
        self._root = str(target_root)
        # In a user namespace overlay may not write trusted.* attributes; with this option it uses user.*.
        self._always = ("userxattr",) if user_namespace else ()

    def plan(
        self,
        volume: Volume,
        version: Version,
        config_layer: str,
        *,
        read_only: bool,
        flags: int,
        options: tuple[str, ...],
        files: Iterable[tuple[str, str]],
        writable_directories: tuple[str, ...] = (),
    ) -> ViewPlan:
        """Plan a view; pure."""
        lower = [self._data.agent(version)]
        if config_layer:
            lower.insert(0, config_layer)
        if read_only:
            layers: tuple[str, ...] = (f"lowerdir={':'.join([volume.upper, *lower])}",)
            flags |= syscalls.MS_RDONLY
        else:
            layers = (f"lowerdir={':'.join(lower)}", f"upperdir={volume.upper}", f"workdir={volume.work}")
        directories = writable_directories if read_only else ()
        return ViewPlan(volume, ",".join((*layers, *self._always, *options)), flags, files, directories)

    def requested_path(self, mounted: str) -> str:
        """Return the path by which kubelet names a mounted target: the mount table resolves a symlink to the root."""
        real = f"{os.path.realpath(self._root)}/"
        return f"{self._root}/{mounted.removeprefix(real)}" if mounted.startswith(real) else mounted

    def open_target(self, target: TargetPath) -> MountTarget:
        """Open a target below the target root, as a context manager; see `mount_target.open_below`."""
        return mount_target.open_below(self._root, target)
