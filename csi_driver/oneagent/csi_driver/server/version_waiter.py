"""Waiting for a version: publishes wake as soon as the store or the desired versions change.

While calls wait, one thread polls cheap things every 20 ms: the change time of `agents/` (a version appears by one
rename), the database's change counter, and the store's lease if a call found it taken. Without waiting calls there is
no thread. No inotify: that would be a second mechanism to fail, for 10 ms.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from oneagent.common import logs

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
RESTART_SECONDS: Final = 1.0
"""Time until a new thread polls after an unexpected error."""


class VersionWaiter:
    """Lets publishes wait for changes. Thread-safe."""

    def __init__(
        self, agents_dir: str, refresh_desired: Callable[[], bool], is_removing: Callable[[], bool] = lambda: False
    ) -> None:
        self._agents_dir = agents_dir
        self._refresh_desired = refresh_desired
        self._is_removing = is_removing
        self._awaits_lease = False
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

    def wait_for_change(self, generation: int, seconds: float, *, awaits_lease: bool = False) -> None:
        """Return when something changed since `generation`, or after `seconds`.

        With `awaits_lease` the end of a removal is such a change.
        """
        with self._condition:
            if self._generation != generation or seconds <= 0:
                return
            self._awaits_lease |= awaits_lease
            self._waiting += 1
            self._condition.wait(seconds if self._is_polling() else min(seconds, RESTART_SECONDS))
            self._waiting -= 1

    def _is_polling(self) -> bool:
        """Return whether a thread polls, which is started if there is none; False if that is impossible."""
        if not self._polling:
            try:
                threading.Thread(target=self._poll, name="version-waiter", daemon=True).start()
            except RuntimeError as error:  # The node's or the container's limit of threads.
                log.warning("poll for versions not started, retrying", extra=logs.fields(reason=error))
                return False
            self._polling = True
        return True

    def _poll(self) -> None:
        try:
            self._poll_until_idle()
        except Exception:
            log.exception("poll for versions failed, retrying")
            time.sleep(RESTART_SECONDS)
            self._polling = False
            self.wake()  # A call that waits again starts a new thread.

    def _poll_until_idle(self) -> None:
        seen = None
        while True:
            changed = self._refresh_desired() or self._has_lease_returned()
            try:
                now = os.stat(self._agents_dir).st_mtime_ns
            except OSError:
                now = 0  # The data directory was emptied; the provisioner creates it again.
            # The first poll counts as a change: a version may have come before this thread started.
            if changed or now != seen:
                seen = now
                self.wake()
            with self._condition:
                if not self._waiting:
                    self._polling = False
                    return
            time.sleep(POLL_SECONDS)

    def _has_lease_returned(self) -> bool:
        """Return whether a call awaits the end of a removal, and there is none in progress."""
        if not self._awaits_lease:
            return False
        # Cleared first: a call that finds the lease taken from now on sets it again.
        self._awaits_lease = False
        if self._is_removing():
            self._awaits_lease = True
            return False
        return True
