"""Volume directories made in advance, so that a publish acquires one by a rename.

Making the six directories of a view costs as much as the mount itself (measured on ext4: 45 % of a publish). A few
are therefore made while no call waits; when they run out, a publish makes its own. The pool lies outside `volumes/`,
so a crash leaves nothing there that looks like a volume.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from typing import Final

from oneagent.common.agents.oneagent import ENRICHMENT_DIRECTORY
from oneagent.common.injection.contract import VIEW_FILES_DIRECTORY
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import tree_walker
from oneagent.csi_driver.server.volume_files import IDENTITY_FILE

KEPT: Final = 32
_FOLDERS: Final = (
    ("work", 0o700),
    ("upper", 0o1777),
    ("upper/agent", 0o1777),
    (f"upper/{VIEW_FILES_DIRECTORY}", 0o1777),
    (f"upper/{VIEW_FILES_DIRECTORY}/{ENRICHMENT_DIRECTORY}", 0o755),
)


class VolumeDirPool:
    """Thread-safe. Call `start` once; without it every `acquire` creates the directories itself."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._pool_dir = str(data.volume_pool)
        self._ready: deque[str] = deque()
        self._low = threading.Event()
        self._names = itertools.count(time.time_ns())
        self._started = False

    def start(self) -> None:
        """Start to fill the pool. Directories of an earlier process may be incomplete, so they are removed."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._pool_dir):
                tree_walker.remove_if_possible(entry.path)
        self._started = True
        self._low.set()
        threading.Thread(target=self._refill, name="volume-dir-pool", daemon=True).start()

    def acquire(self, place: str) -> None:
        """Create the volume directory `place` with new `upper` and `work`; `OSError` if it exists."""
        try:
            self._acquire(place)
        except FileNotFoundError:
            # The data directory was emptied under the running server, and the pool with it.
            self._ready.clear()
            self._data.create()
            self._acquire(place)
        if self._started and len(self._ready) < KEPT // 2:
            self._low.set()

    def remove_files_of_default(self, place: str) -> None:
        """Remove what only OneAgent's files need, for another kind of agent, which most pods do not have."""
        os.unlink(f"{place}/upper/{IDENTITY_FILE}")
        os.rmdir(f"{place}/upper/{VIEW_FILES_DIRECTORY}/{ENRICHMENT_DIRECTORY}")

    def _acquire(self, place: str) -> None:
        try:
            directory = self._ready.popleft()
        except IndexError:
            directory = self._make()
        os.rename(directory, place)

    def _make(self) -> str:
        """Create the directories. chmod sets the modes, since the umask would reduce them: any user id may write."""
        directory = f"{self._pool_dir}/{next(self._names):x}"
        os.mkdir(directory, 0o700)
        for name, mode in _FOLDERS:
            os.mkdir(f"{directory}/{name}", 0o700)
            if mode != 0o700:
                os.chmod(f"{directory}/{name}", mode)
        identity = f"{directory}/upper/{IDENTITY_FILE}"
        descriptor = os.open(identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o644)
        finally:
            os.close(descriptor)
        return directory

    def _refill(self) -> None:
        while True:
            self._low.wait()
            self._low.clear()
            # A full or read-only disk: the publish that finds no directory reports it.
            with contextlib.suppress(OSError):
                while len(self._ready) < KEPT:
                    self._ready.append(self._make())
