"""Usage and condition of a volume: the response to NodeGetVolumeStats.

`used` counts the pod's own files (its upper layer), since all pods share the agent below. `total` and `available` are
those of the upper layer's file system, because the pod would fill that. Of a large upper layer only the first entries
are counted, and the condition's message reports it: CSI has no field for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from oneagent.common import agents
from oneagent.common.identifiers import Version, agent_version
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.linux import tree_walker
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.server.errors import NotFoundError
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.store import corruption_log

MAX_ENTRIES: Final = 20_000
"""Limit of the files that are counted in an upper layer: kubelet calls every minute."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes or inodes."""

    total: int
    available: int
    used: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of a volume, and its problem; empty for a healthy one. `complete`: all of its entries are counted."""

    size: Amount
    inodes: Amount
    problem: str
    mounted: bool
    complete: bool

    @property
    def message(self) -> str:
        """The message of the volume condition."""
        state = self.problem or ("the view is mounted" if self.mounted else "the pod's files are written")
        return state if self.complete else f"{state}; its usage counts the first {MAX_ENTRIES} entries only"


def read_usage(
    volume: VolumeId, path: TargetPath, data: DataDir, volumes: VolumeRepository, mounts: OverlayMounter
) -> Usage:
    """Measure a volume; `NotFoundError` if it is unknown or not published at this path."""
    record = volumes.get(volume)
    if record is None or not path or record.target != path:
        raise NotFoundError(f"volume {volume} is not published at {path or 'this path'!r}")
    with mounts.open_target(path) as target:
        mounted = target.is_mounted()
    problem = _problem(record, mounted, data)
    written = data.volume(volume).upper if record.mode == "app" else str(data.root)
    filesystem = os.statvfs(written if os.path.exists(written) else data.root)
    size, inodes = _count_written(written) if record.mode == "app" else (0, 0)
    return Usage(
        size=Amount(
            total=filesystem.f_blocks * filesystem.f_frsize,
            available=filesystem.f_bavail * filesystem.f_frsize,
            used=size,
        ),
        inodes=Amount(total=filesystem.f_files, available=filesystem.f_favail, used=inodes),
        problem=problem,
        mounted=mounted,
        complete=inodes < MAX_ENTRIES,
    )


def _problem(record: VolumeRecord, mounted: bool, data: DataDir) -> str:
    if record.state == VolumeState.EMPTY:
        return f"the view is empty, the pod runs without its agent: {record.reason}"
    if record.state == VolumeState.WRITTEN:
        return ""
    if not mounted:
        return "the view is gone: nothing is mounted at the target"
    if record.mode == "app":
        version = Version(record.version)
        if corruption := corruption_log.for_volume(data, record.id, version):
            return f"version {agent_version(version)} was corrupted under this view: {corruption}; restart the pod"
        if agents.of_tree(data.agent(version)) is None:
            library = agents.DEFAULT.preload_library
            return f"version {agent_version(version)} is corrupt: {library} is missing in the store"
    return ""


def _count_written(upper: str) -> tuple[int, int]:
    """Count bytes on disk and entries below a directory, up to `MAX_ENTRIES`; 0 without one, as of an empty view."""
    size, count = 0, 0
    below = tree_walker.entries(upper)
    next(below, None)
    for status, _ in below:
        size += status.st_blocks * 512
        count += 1
        if count >= MAX_ENTRIES:
            break
    return size, count
