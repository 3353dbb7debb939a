"""Limits of one exchange: a request, its redirects, and its response until the last byte.

A time limit for each read bounds nothing: a server that sends a byte now and then keeps a client for days. So every
wait of an exchange, for a name, a connection, TLS, headers or body, is cut to what is left of one deadline. A large
body has no deadline but a minimum rate, measured over the time that the client has waited for it: a slow disk is not
the server's fault. Every wait ends soon after a `cancel_scope` around it is cancelled.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from oneagent.common.http import errors

SLICE_SECONDS: Final = 0.25
"""Longest time between two looks at the cancel scopes."""

MAX_HEADER_BYTES: Final = 1 << 20
"""Bytes from the network before a response's body, informational responses (1xx) and redirects included."""


@dataclass(frozen=True, slots=True)
class MinimumRate:
    """Slowest rate of a body, over each window of this time."""

    bytes_per_second: int = 16 * 1024
    window_seconds: float = 60.0


PACKAGE_RATE: Final = MinimumRate()

_scopes: ContextVar[tuple[threading.Event, ...]] = ContextVar("cancel scopes", default=())


@contextlib.contextmanager
def cancel_scope(cancelled: threading.Event) -> Iterator[None]:
    """End all requests of this thread within the block as soon as the event is set: `RequestCancelledError`."""
    token = _scopes.set((*_scopes.get(), cancelled))
    try:
        yield
    finally:
        _scopes.reset(token)


@dataclass(slots=True)
class Exchange:
    """The limits, and what has been used of them. For one thread."""

    where: str = ""
    """URL for messages, without secrets."""
    deadline: float = float("inf")
    """Time of `time.monotonic()` at which the exchange ends."""
    rate: MinimumRate | None = None
    """Replaces the deadline while the body is read."""
    _cancelled: tuple[threading.Event, ...] = field(default_factory=_scopes.get)
    _in_headers: bool = True
    _header_bytes: int = 0
    _window_bytes: int = 0
    _window_seconds: float = 0.0

    def begin_body(self) -> None:
        """Apply the limits of the body from now on."""
        self._in_headers = False
        if self.rate is not None:
            self.deadline = float("inf")

    def check(self) -> None:
        """Raise `RequestCancelledError`, or `TimeoutError` after the deadline."""
        if any(event.is_set() for event in self._cancelled):
            raise errors.RequestCancelledError(f"{self.where}: the request was cancelled")
        if time.monotonic() >= self.deadline:
            raise TimeoutError("deadline exceeded")

    def until(self, timeout: float | None) -> float:
        """Return the time at which a wait of at most `timeout` seconds ends."""
        return self.deadline if timeout is None else min(self.deadline, time.monotonic() + timeout)

    def next_wait(self, until: float) -> float:
        """Return the seconds of the next slice of a wait that ends at `until`. Raises as `check`."""
        self.check()
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, SLICE_SECONDS)

    def add_received(self, size: int) -> None:
        """Count bytes from the network."""
        if self._in_headers:
            self._header_bytes += size
            if self._header_bytes > MAX_HEADER_BYTES:
                raise errors.UnexpectedResponseError(f"{self.where}: more than {MAX_HEADER_BYTES:,} bytes of headers")

    def add_body(self, size: int) -> None:
        """Count bytes of the body."""
        self._window_bytes += size

    def add_waited(self, seconds: float) -> None:
        """Count time that the client has waited for the server; `UnreachableError` if it sends too slowly."""
        if self.rate is None or self._in_headers:
            return
        self._window_seconds += seconds
        if self._window_seconds < self.rate.window_seconds:
            return
        if self._window_bytes < self.rate.bytes_per_second * self._window_seconds:
            raise errors.UnreachableError(
                f"{self.where}: sent {self._window_bytes:,} bytes in {self._window_seconds:.0f} s, too slow: at least"
                f" {self.rate.bytes_per_second:,} bytes a second are needed",
                errors.Stage.TIMEOUT,
            )
        self._window_bytes, self._window_seconds = 0, 0.0


_current: ContextVar[Exchange] = ContextVar("exchange")


def current() -> Exchange:
    """Return the exchange of this thread; one without limits outside of all exchanges."""
    return _current.get(None) or Exchange()


@contextlib.contextmanager
def activate(exchange: Exchange) -> Iterator[None]:
    """Apply the limits to this thread's network input and output within the block."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)
