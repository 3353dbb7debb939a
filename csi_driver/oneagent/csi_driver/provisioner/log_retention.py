"""Retention of logs: the upper layers of deleted pods, up to an age and a size.

The server moves them to `logs/<volume id>@<seconds>`. Expired ones go into the trash, and so does a tree that can't be
measured, because it is too deep or unreadable: its bytes would escape the limit.
"""

from __future__ import annotations

import logging
from pathlib import Path

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import disk_usage

log = logging.getLogger(__name__)


def expire(data: DataDir, keep_seconds: float, keep_bytes: int, now: float) -> int:
    """Remove logs by age, then the oldest until the rest fits (0: no limit); return the remaining bytes."""
    kept: list[tuple[Path, int]] = []
    for entry in sorted(data.logs.iterdir(), key=_archived_at):
        if now - _archived_at(entry) >= keep_seconds:
            data.discard(entry)
            continue
        usage = disk_usage.measure(entry)
        if usage.complete:
            kept.append((entry, usage.size_bytes))
        else:
            data.discard(entry)
            log.warning("kept log removed: its tree is too deep or unreadable", extra=logs.fields(entry=entry.name))
    total = sum(size for _, size in kept)
    for entry, size in kept:
        if not keep_bytes or total <= keep_bytes:
            break
        data.discard(entry)
        total -= size
    return total


def _archived_at(entry: Path) -> float:
    """Return the time in `<volume id>@<seconds>`; 0 for anything else, which is removed first."""
    try:
        return float(entry.name.rpartition("@")[2].partition(".")[0])
    except ValueError:
        return 0.0
