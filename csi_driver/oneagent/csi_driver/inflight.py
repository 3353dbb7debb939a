"""One call at a time for each volume; the second is told so at once instead of waiting.

An unpublish that finds a publish waiting for its version asks it to give up: CSI knows no other way of
cancelling a call than its opposite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from oneagent.csi_driver.errors import InFlight
from oneagent.csi_driver.paths import VolumeId


class Call:
    """A call under way. `cancelled` is set when nobody wants its answer any more."""

    __slots__ = ("cancelled", "what")

    def __init__(self, what: str) -> None:
        self.what = what
        self.cancelled = False


class InFlightCalls:
    """The calls under way, by volume. Thread-safe."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._calls: dict[VolumeId, Call] = {}
        self._closing = False

    @contextlib.contextmanager
    def hold(self, volume: VolumeId, what: str, *, cancel_other: bool = False) -> Iterator[Call]:
        """Hold the volume for one call; `InFlight` if another one holds it."""
        call = Call(what)
        # setdefault is one step under the interpreter's lock: of two callers exactly one gets its own back.
        holder = self._calls.setdefault(volume, call)
        if holder is not call:
            if cancel_other:
                self.cancel(volume, holder)
            raise InFlight(f"volume {volume}: {holder.what} is under way; try again")
        if self._closing:
            call.cancelled = True
        try:
            yield call
        finally:
            del self._calls[volume]

    def cancel(self, volume: VolumeId, call: Call) -> None:
        """Ask a call to give up, if it is still under way."""
        if self._calls.get(volume) is call:
            call.cancelled = True
            self._wake()

    def cancel_all(self) -> None:
        """Ask all calls to give up, and those that still come."""
        self._closing = True
        for call in list(self._calls.values()):
            call.cancelled = True
        self._wake()
