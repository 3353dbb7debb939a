"""Volume folders made beforehand, so that a publish takes one by a rename.

Making the five folders of a view costs as much as the mount itself (measured on ext4: 45 % of a publish). A few
are therefore made while nobody waits; when they run out, a publish makes its own. A spare lies outside `volumes/`,
so a crash leaves nothing there that looks like a volume.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections import deque
from typing import Final

from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.server.mount_target import CONFIG_FOLDER, IDENTITY_FILE

KEPT: Final = 32
_FOLDERS: Final = (
    ("work", 0o700),
    ("upper", 0o1777),
    ("upper/agent", 0o1777),
    (f"upper/{CONFIG_FOLDER}", 0o1777),
)


class VolumeDirPool:
    """Thread-safe. Call `start` once; without it every `acquire` makes the folders itself."""

    def __init__(self, folder: DataDir) -> None:
        self._folder = str(folder.volume_pool)
        self._ready: deque[str] = deque()
        self._low = threading.Event()
        self._names = itertools.count(time.time_ns())
        self._started = False

    def start(self) -> None:
        """Keep some dir_pool from now on. Those of an earlier process may be half made, so they go."""
        for entry in os.scandir(self._folder):
            shutil.rmtree(entry.path, ignore_errors=True)
        self._started = True
        self._low.set()
        threading.Thread(target=self._refill, name="volume-dir-pool", daemon=True).start()

    def acquire(self, place: str) -> None:
        """Make `place` a volume folder with a fresh `upper` and `work`; `OSError` if there is one already."""
        try:
            spare = self._ready.popleft()
        except IndexError:
            spare = self._make()
        os.rename(spare, place)
        if self._started and len(self._ready) < KEPT // 2:
            self._low.set()

    def _make(self) -> str:
        """Modes are set by chmod, since the process-wide umask would cut them: any user id in a pod may write."""
        spare = f"{self._folder}/{next(self._names):x}"
        os.mkdir(spare, 0o700)
        for name, mode in _FOLDERS:
            os.mkdir(f"{spare}/{name}", 0o700)
            if mode != 0o700:
                os.chmod(f"{spare}/{name}", mode)
        descriptor = os.open(
            f"{spare}/upper/{IDENTITY_FILE}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            os.fchmod(descriptor, 0o644)
        finally:
            os.close(descriptor)
        return spare

    def _refill(self) -> None:
        while True:
            self._low.wait()
            self._low.clear()
            # A full or read-only disk: the publish that finds no spare says so.
            with contextlib.suppress(OSError):
                while len(self._ready) < KEPT:
                    self._ready.append(self._make())
