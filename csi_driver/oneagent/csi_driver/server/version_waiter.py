"""Waiting for a version: woken as soon as the store or the wanted version is another than before.

While somebody waits, one thread looks every 20 ms at two things that cost microseconds: the store folder's change
time (a version appears by one rename) and the database's change counter. While nobody waits there is no thread
that looks. No inotify: that would be a second mechanism to fail, for 10 ms.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

POLL_SECONDS: Final = 0.02


class VersionWaiter:
    """Where publishes wait. Thread-safe."""

    def __init__(self, agents_dir: str, refresh_desired: Callable[[], bool]) -> None:
        self._agents_dir = agents_dir
        self._refresh_desired = refresh_desired
        self._condition = threading.Condition()
        self._generation = 0
        self._waiting = 0
        self._polling = False

    @property
    def waiting(self) -> int:
        """How many calls wait at the moment."""
        return self._waiting

    @property
    def generation(self) -> int:
        """To be read before the state that is waited for, and given to `wait_for_change`: nothing is missed in between."""
        return self._generation

    def wake(self) -> None:
        """Let every waiter look again."""
        with self._condition:
            self._generation += 1
            self._condition.notify_all()

    def wait_for_change(self, generation: int, seconds: float) -> None:
        """Return when something changed since `generation`, or after `seconds`."""
        with self._condition:
            if self._generation != generation or seconds <= 0:
                return
            self._waiting += 1
            if not self._polling:
                self._polling = True
                threading.Thread(target=self._poll, name="version-waiter", daemon=True).start()
            self._condition.wait(seconds)
            self._waiting -= 1

    def _poll(self) -> None:
        seen = None
        while True:
            changed = self._refresh_desired()
            try:
                now = os.stat(self._agents_dir).st_mtime_ns
            except OSError:
                now = None
            # The first look counts as a change: something may have come before this thread did.
            if changed or now != seen or now is None:
                seen = now
                self.wake()
            with self._condition:
                if not self._waiting:
                    self._polling = False
                    return
            time.sleep(POLL_SECONDS)
