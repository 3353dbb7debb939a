"""One call at a time for each volume, and for each target; the second is told so at once instead of waiting.

An unpublish that finds a publish waiting for its version asks it to give up: CSI knows no other way of
cancelling a call than its opposite.
"""

from __future__ import annotations

from collections.abc import Callable

from oneagent.csi_driver.server.errors import CallInFlightError


class Call:
    """A call under way, as a context manager that ends with it. `cancelled`: nobody wants its answer any more."""

    __slots__ = ("_calls", "_key", "cancelled", "what")

    def __init__(self, calls: dict[str, Call], key: str, what: str) -> None:
        self._calls = calls
        self._key = key
        self.what = what
        self.cancelled = False

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        del self._calls[self._key]


class InFlightCalls:
    """The calls under way, by the volume or the target that they hold. Thread-safe."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._calls: dict[str, Call] = {}
        self._closing = False

    @property
    def busy(self) -> bool:
        """Whether any call is under way."""
        return bool(self._calls)

    def hold(self, key: str, what: str, *, cancel_other: bool = False) -> Call:
        """Hold a volume or a target for one call; `CallInFlightError` if another one holds it."""
        call = Call(self._calls, key, what)
        # setdefault is one step under the interpreter's lock: of two callers exactly one gets its own back.
        holder = self._calls.setdefault(key, call)
        if holder is not call:
            if cancel_other:
                self.cancel(key, holder)
            raise CallInFlightError(f"{key}: {holder.what} is under way; try again")
        call.cancelled = self._closing
        return call

    def cancel(self, key: str, call: Call) -> None:
        """Ask a call to give up, if it is still under way."""
        if self._calls.get(key) is call:
            call.cancelled = True
            self._wake()

    def cancel_all(self) -> None:
        """Ask all calls to give up, and those that still come."""
        self._closing = True
        for call in list(self._calls.values()):
            call.cancelled = True
        self._wake()
