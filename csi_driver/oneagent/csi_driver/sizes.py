"""What things take on the disk; for people, budgets and metrics, so nothing here fails."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def on_disk(place: str | Path) -> int:
    """Bytes on disk at or below a path; what vanishes meanwhile, or lies deeper than a path can say, counts nothing."""
    size, pending = 0, [str(place)]
    while pending:
        path = pending.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            size += status.st_blocks * 512
            if stat.S_ISDIR(status.st_mode):
                pending += [f"{path}/{name}" for name in os.listdir(path)]
    return size
