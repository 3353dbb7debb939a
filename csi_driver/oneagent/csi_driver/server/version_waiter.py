"""Waiting for a version: publishes wake as soon as the store or the desired versions change.

While calls wait, one thread polls two cheap things every 20 ms: the change time of `agents/` (a version appears by
one rename) and the database's change counter. Without waiting calls there is no thread. No inotify: that would be a
second mechanism to fail, for 10 ms.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

POLL_SECONDS: Final = 0.02


class VersionWaiter:
    """Lets publishes wait for changes. Thread-safe."""

    def __init__(self, agents_dir: str, refresh_desired: Callable[[], bool]) -> None:
        self._agents_dir = agents_dir
        self._refresh_desired = refresh_desired
        self._condition = threading.Condition()
        self._generation = 0
        self._waiting = 0
        self._polling = False

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return self._waiting

    @property
    def generation(self) -> int:
        """Number of changes. Read it before the awaited state, and pass it to `wait_for_change`: none is missed."""
        return self._generation

    def wake(self) -> None:
        """Wake every waiting call."""
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
            # The first poll counts as a change: a version may have come before this thread started.
            if changed or now != seen or now is None:
                seen = now
                self.wake()
            with self._condition:
                if not self._waiting:
                    self._polling = False
                    return
            time.sleep(POLL_SECONDS)
