"""Places for tasks that wait for foreign servers, so that bad tenants never keep an honest one waiting for long.

One tenant has at most one place. All tenants together have a limit, which bounds memory and processor time. A task that
has taken long mostly waits, so it no longer counts: the number of tasks is bounded by the limit and the slow tenants.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    tenant: str
    since: float


class Slots:
    """Thread-safe."""

    def __init__(self, limit: int, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """After `patience_seconds`, a task does not count for the limit."""
        self._limit, self._patience, self._clock = limit, patience_seconds, clock
        self._lock = threading.Lock()
        self._held: dict[str, Slot] = {}

    def acquire(self, tenant: str) -> Slot | None:
        """Return a place; None if the tenant has one, or if there is none left now."""
        with self._lock:
            now = self._clock()
            recent = sum(slot.since > now - self._patience for slot in self._held.values())
            if tenant in self._held or recent >= self._limit:
                return None
            slot = self._held[tenant] = Slot(tenant, now)
            return slot

    def release(self, slot: Slot) -> None:
        """Give a place back; nothing happens if that was done before."""
        with self._lock:
            if self._held.get(slot.tenant) is slot:
                del self._held[slot.tenant]
