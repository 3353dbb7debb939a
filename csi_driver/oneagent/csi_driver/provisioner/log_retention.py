"""Kept logs: the upper layers of pods that are gone, for as long and as much as is allowed.

The server moves them to `logs/<volume id>@<seconds>`; what goes from there goes into the trash.
"""

from __future__ import annotations

from pathlib import Path

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage


def expire(folder: DataDir, keep_seconds: float, keep_bytes: int, now: float) -> int:
    """Remove by age, then the oldest until the rest is small enough (0: whatever its size); the bytes that stay."""
    entries = sorted(folder.logs.iterdir(), key=_kept_at)
    taken = {entry: disk_usage.total_bytes(entry) for entry in entries}
    total = sum(taken.values())
    for entry in entries:
        if now - _kept_at(entry) >= keep_seconds or (keep_bytes and total > keep_bytes):
            folder.discard(entry)
            total -= taken[entry]
    return total


def _kept_at(entry: Path) -> float:
    """The time in `<volume id>@<seconds>`; 0 for anything else, which is then the first to go."""
    try:
        return float(entry.name.rpartition("@")[2].partition(".")[0])
    except ValueError:
        return 0.0
