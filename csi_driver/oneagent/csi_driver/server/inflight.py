"""One call at a time for each volume and each target; a second call fails at once instead of waiting.

An unpublish cancels a publish that waits for its version: CSI has no other way to cancel a call than its
opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from oneagent.csi_driver.server.errors import CallInFlightError


class Call:
    """A call in flight, as a context manager. `cancelled`: its response is no longer needed."""

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
    """The calls in flight, by the volume or target that they hold. Thread-safe."""

    def __init__(self, wake: Callable[[Collection[Call]], None]) -> None:
        self._wake = wake
        self._calls: dict[str, Call] = {}
        self._closing = False

    @property
    def busy(self) -> bool:
        """True while any call is in flight."""
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
        """Cancel a call that is still in flight."""
        if self._calls.get(key) is call:
            call.cancelled = True
            self._wake([call])

    def cancel_all(self) -> None:
        """Cancel all calls, present and future."""
        self._closing = True
        calls = set(self._calls.values())
        for call in calls:
            call.cancelled = True
        self._wake(calls)
