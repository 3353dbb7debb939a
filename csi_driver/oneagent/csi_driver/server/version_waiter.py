"""Waiting for a version: a publish wakes when something that it depends on has changed, and no other one does.

While calls wait, one thread polls cheap things: the database's change counter, for each distinct state that calls wait
with whether it still holds, and the store's lease if a call found it taken. It polls every 20 ms at first and more
slowly while no further call comes, so that a wait is lengthened by at most 2 % of itself, and by 80 ms. Without waiting
calls there is no thread. No inotify: that would be a second mechanism to fail, for 10 ms.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection
from typing import Final, NamedTuple

from oneagent.common import logs
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.server.inflight import Call
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
LONGEST_POLL_SECONDS: Final = 0.08
_POLL_SHARE: Final = 0.02
RESTART_SECONDS: Final = 1.0
"""Time until a new thread polls after an unexpected error."""


class AwaitedState(NamedTuple):
    """The state that a waiting publish depends on, as it was when the call last looked."""

    dynakube: DynaKubeName
    mounted: Version
    """The version that the volume has been published with; empty for none."""
    row: DesiredState | None
    is_unknown: bool
    present: tuple[bool, ...]
    """For each version of `row`, its config layer, and `mounted`: True if the store has it."""


class VersionWaiter:
    """Lets publishes wait for changes. Thread-safe."""

    def __init__(self, data: DataDir, store: AgentStore, desired: DesiredStateReader) -> None:
        self._data = data
        self._store = store
        self._desired = desired
        self._lock = threading.Lock()
        self._waiting: dict[AwaitedState, dict[Call, threading.Event]] = {}
        self._awaiting_lease: dict[Call, threading.Event] = {}
        self._newest = 0.0
        """When the last call began to wait."""
        self._polling = False

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def look(self, dynakube: DynaKubeName, mounted: Version = Version("")) -> AwaitedState:
        """Return the present state. Read it before deciding to wait, and pass it to `wait_for_change`: none is missed.

        The store is read before the row, as in a publish.
        """
        row = self._desired.get_cached(dynakube)
        versions = (row.version, row.good_version, mounted) if row is not None else (mounted,)
        present = [bool(version) and self._store.has(version) for version in versions]
        if row is not None and row.layer:
            present.append(os.path.isdir(self._data.config_layer_path(row.tenant, row.layer)))
        return AwaitedState(dynakube, mounted, row, row is None and self._desired.is_unknown(dynakube), tuple(present))

    def wake(self, calls: Collection[Call]) -> None:
        """Wake those of these calls that wait."""
        with self._lock:
            for waiting in self._waiting.values():
                for call in waiting.keys() & calls:
                    waiting[call].set()

    def wait_for_change(self, seen: AwaitedState, seconds: float, call: Call, *, awaits_lease: bool = False) -> None:
        """Return when the state is no longer as seen, once the call is cancelled, or after `seconds`.

        With `awaits_lease` also at the end of a removal.
        """
        changed = threading.Event()
        with self._lock:
            # Cancelled before it could be woken.
            if call.cancelled or seconds <= 0:
                return
            self._waiting.setdefault(seen, {})[call] = changed
            if awaits_lease:
                self._awaiting_lease[call] = changed
            self._newest = time.monotonic()
            is_polling = self._is_polling()
        changed.wait(seconds if is_polling else min(seconds, RESTART_SECONDS))
        with self._lock:
            self._awaiting_lease.pop(call, None)
            waiting = self._waiting[seen]
            del waiting[call]
            if not waiting:
                del self._waiting[seen]

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
            while self._wake_changed():
                waited = time.monotonic() - self._newest
                time.sleep(min(max(POLL_SECONDS, waited * _POLL_SHARE), LONGEST_POLL_SECONDS))
        except Exception:
            log.exception("poll for versions failed, retrying")
            time.sleep(RESTART_SECONDS)
            with self._lock:
                self._polling = False
                # A call that waits again starts a new thread.
                for waiting in self._waiting.values():
                    for changed in waiting.values():
                        changed.set()

    def _wake_changed(self) -> bool:
        """Wake the calls whose state has changed; False, and no thread polls any more, if no call waits."""
        self._desired.refresh()
        with self._lock:
            if not self._waiting:
                self._polling = False
                return False
            states, awaits_lease = list(self._waiting), bool(self._awaiting_lease)
        changed_states = [state for state in states if self.look(state.dynakube, state.mounted) != state]
        has_lease_returned = awaits_lease and not self._store.is_removing()
        with self._lock:
            woken = [self._waiting.get(state, {}) for state in changed_states]
            for waiting in (*woken, self._awaiting_lease if has_lease_returned else {}):
                for changed in waiting.values():
                    changed.set()
        return True
