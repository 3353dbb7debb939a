"""Retention of logs: the upper layers of deleted pods, up to an age and a size.

The server moves them to `logs/<volume id>@<seconds>`. Expired ones go into the trash.
"""

from __future__ import annotations

from pathlib import Path

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage


def expire(data: DataDir, keep_seconds: float, keep_bytes: int, now: float) -> int:
    """Remove logs by age, then the oldest until the rest fits (0: no limit); return the remaining bytes."""
    entries = sorted(data.logs.iterdir(), key=_archived_at)
    sizes = {entry: disk_usage.total_bytes(entry) for entry in entries}
    total = sum(sizes.values())
    for entry in entries:
        if now - _archived_at(entry) >= keep_seconds or (keep_bytes and total > keep_bytes):
            data.discard(entry)
            total -= sizes[entry]
    return total


def _archived_at(entry: Path) -> float:
    """Return the time in `<volume id>@<seconds>`; 0 for anything else, which is removed first."""
    try:
        return float(entry.name.rpartition("@")[2].partition(".")[0])
    except ValueError:
        return 0.0
