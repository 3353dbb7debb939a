"""Usage and condition of a volume: the response to NodeGetVolumeStats.

`used` counts what the pod itself wrote (its upper layer), since the agent below is shared by all pods; `total`
and `available` are those of the file system that holds it, because that is what the pod would fill.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from oneagent.common.identifiers import Version
from oneagent.common.injection.contract import PRELOAD_LIBRARY
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.server.errors import NotFoundError
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.store import corruption_log

MOST_ENTRIES: Final = 20_000
"""Of an upper layer with more files than this only so many are counted: kubelet asks every minute."""


@dataclass(frozen=True, slots=True)
class Amount:
    """`unit` is what is counted: bytes or inodes."""

    total: int
    available: int
    used: int


@dataclass(frozen=True, slots=True)
class Usage:
    """`problem` says what is wrong with the volume; empty when nothing is."""

    size: Amount
    inodes: Amount
    problem: str


def of_volume(
    volume: VolumeId, path: TargetPath, data: DataDir, volumes: VolumeRepository, mounts: OverlayMounter
) -> Usage:
    """`NotFoundError` if the volume is unknown or not published at this path."""
    record = volumes.get(volume)
    if record is None or not path or record.target != path:
        raise NotFoundError(f"volume {volume} is not published at {path or 'this path'!r}")
    with mounts.at(path) as target:
        mounted = target.mounted()
    problem = _problem(record, mounted, data)
    written = data.volume(volume).upper if record.mode == "app" else str(data.root)
    filesystem = os.statvfs(written if os.path.exists(written) else data.root)
    size, inodes = _written(written) if record.mode == "app" else (0, 0)
    return Usage(
        size=Amount(
            total=filesystem.f_blocks * filesystem.f_frsize,
            available=filesystem.f_bavail * filesystem.f_frsize,
            used=size,
        ),
        inodes=Amount(total=filesystem.f_files, available=filesystem.f_favail, used=inodes),
        problem=problem,
    )


def _problem(record: VolumeRecord, mounted: bool, data: DataDir) -> str:
    if record.state == VolumeState.EMPTY:
        return f"the view is empty, the pod runs without its agent: {record.reason}"
    if not mounted:
        return "the view is gone: nothing is mounted at the target"
    if record.mode == "app":
        version = Version(record.version)
        if corruption := corruption_log.for_volume(data, record.id, version):
            return f"version {version} was corrupted under this view: {corruption}; restart the pod"
        if not os.path.isfile(f"{data.agent(version)}/{PRELOAD_LIBRARY}"):
            return f"version {version} is corrupt: {PRELOAD_LIBRARY} is missing in the store"
    return ""


def _written(upper: str) -> tuple[int, int]:
    """Bytes on disk and number of files below a directory; nothing for one that isn't there (an empty view has none)."""
    size = entries = 0
    # The pod goes on writing and deleting meanwhile.
    with contextlib.suppress(FileNotFoundError):
        for _, folders, files, descriptor in os.fwalk(upper):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    size += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_blocks * 512
                entries += 1
                if entries >= MOST_ENTRIES:
                    return size, entries
    return size, entries
