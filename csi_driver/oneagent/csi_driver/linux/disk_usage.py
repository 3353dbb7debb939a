"""Disk usage below paths, for reports, budgets and metrics; it never fails.

Files that vanish meanwhile, or whose path is too long, do not count.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


def total_bytes(*places: str | Path) -> int:
    """Return the bytes on disk at or below these paths; a file with several names counts once."""
    size, seen = 0, set[tuple[int, int]]()
    for status in _all(places):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        size += status.st_blocks * 512
    return size


def bytes_by_inode(place: str | Path) -> dict[int, int]:
    """Return bytes on disk by inode, at or below a path on one file system."""
    return {status.st_ino: status.st_blocks * 512 for status in _all([place])}


def _all(places: Iterable[str | Path]) -> Iterator[os.stat_result]:
    pending = [str(place) for place in places]
    while pending:
        path = pending.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            yield status
            if stat.S_ISDIR(status.st_mode):
                pending += [f"{path}/{name}" for name in os.listdir(path)]
