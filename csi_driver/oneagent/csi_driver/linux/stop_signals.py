"""SIGTERM and SIGINT, awaited by a thread and not handled.

Python runs a handler in the main thread, between any two of its steps. A handler that needs a lock, as
`threading.Event.set` does, waits forever if the main thread holds it just then. An awaited signal has no such moment.

Threads and child processes inherit the blocked signals. Process 1 of a container receives them, too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def block() -> None:
    """Block the stop signals in this thread. Call it before starting any other thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock() -> None:
    """Let the stop signals end this process: for the children of a process that blocks them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def call_on_stop(callback: Callable[[], None]) -> None:
    """Block the stop signals, and call `callback` in a thread of its own for each one that arrives."""
    block()

    def wait() -> None:
        while True:
            signal.sigwait(STOP_SIGNALS)
            callback()

    threading.Thread(target=wait, name="signals", daemon=True).start()
