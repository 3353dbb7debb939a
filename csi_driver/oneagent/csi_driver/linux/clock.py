"""A clock that shows elapsed time, whatever happens to the node's wall clock.

A node's wall clock may be wrong at boot and be stepped later. Timeouts and retention times that were measured by it
would pass at once, or never. This clock shows seconds since the epoch as of its first use on a data directory. From
then on it goes by CLOCK_BOOTTIME, which includes the time that a node is suspended and is never stepped.

Its anchor, in a file of the data directory, is for all processes of a boot. Across a boot only the wall clock can tell
how long the node was off: the difference to its last reading counts, which is written down every minute, so a step
between two boots counts and earlier ones do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SAVE_SECONDS: Final = 60.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Anchor:
    """The clock's time at a moment, and what the kernel's clocks showed then."""

    boot_id: str
    boottime: float
    wall: float
    time: float


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class SteadyClock:
    """Thread-safe. Without a readable anchor it starts at the wall clock's time."""

    def __init__(
        self,
        path: Path,
        *,
        wall: Callable[[], float] | None = None,
        boottime: Callable[[], float] = _boottime,
        boot_id: Callable[[], str] = _boot_id,
    ) -> None:
        self._path = path
        self._wall = wall or time.time
        self._boottime = boottime
        self._boot_id = boot_id()
        self._offset = self._find_offset(_read(path))
        self._saved_at = float("-inf")

    def now(self) -> float:
        """Return seconds since the epoch, as of the first use."""
        return self._offset + self._boottime()

    def save(self) -> None:
        """Write the anchor down, at most once a minute. On a disk that can't be written the last one stays."""
        boottime = self._boottime()
        if boottime < self._saved_at + SAVE_SECONDS and self._path.exists():
            return
        self._saved_at = boottime
        anchor = Anchor(self._boot_id, boottime, self._wall(), self._offset + boottime)
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps(asdict(anchor)))
            fresh.rename(self._path)

    def _find_offset(self, anchor: Anchor | None) -> float:
        boottime = self._boottime()
        if anchor is None:
            return self._wall() - boottime
        if anchor.boot_id and anchor.boot_id == self._boot_id:
            return anchor.time - anchor.boottime
        return anchor.time + max(0.0, self._wall() - anchor.wall) - boottime


def _read(path: Path) -> Anchor | None:
    try:
        fields = json.loads(path.read_text())
        return Anchor(str(fields["boot_id"]), *(float(fields[name]) for name in ("boottime", "wall", "time")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
