"""Disk usage below paths, for reports, budgets and metrics; it never fails.

Files that vanish meanwhile do not count.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from oneagent.csi_driver.linux import tree_walker


class Usage(NamedTuple):
    """`complete` is False if a part of the tree was too deep or unreadable."""

    size_bytes: int
    complete: bool


def total_bytes(*places: str | Path) -> int:
    """Return the bytes on disk at or below these paths; a file with several names counts once.

    Its memory grows with the number of such files: use `measure` for trees that pods wrote.
    """
    size, seen = 0, set[tuple[int, int]]()
    for place in places:
        for status, _ in tree_walker.entries(place):
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            size += status.st_blocks * 512
    return size


def measure(place: str | Path) -> Usage:
    """Measure a tree that a pod wrote, in bounded memory: each name of a file counts its share of the file's bytes."""
    size, complete = 0.0, True
    for status, is_walked in tree_walker.entries(place):
        names = 1 if stat.S_ISDIR(status.st_mode) else max(status.st_nlink, 1)
        size += status.st_blocks * 512 / names
        complete &= is_walked
    return Usage(round(size), complete)


def bytes_by_inode(place: str | Path) -> dict[int, int]:
    """Return bytes on disk by inode, at or below a path on one file system."""
    return {status.st_ino: status.st_blocks * 512 for status, _ in tree_walker.entries(place)}
