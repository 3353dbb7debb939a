"""Exit codes of a sidecar, delivered to its main thread through a queue.

A thread waits for SIGTERM and SIGINT instead of a handler: a handler's effect goes unnoticed if the signal comes just
before the main thread begins to wait. Without either, process 1 of a container ignores both signals.
"""

from __future__ import annotations

import queue
import signal
import threading

ExitCodes = queue.SimpleQueue[int]

_STOP = (signal.SIGTERM, signal.SIGINT)


def install_handlers() -> ExitCodes:
    """Return a queue that receives 0 for each SIGTERM and SIGINT; other threads may add other exit codes.

    Call it before starting any other thread, since threads inherit the blocked signals.
    """
    codes: ExitCodes = queue.SimpleQueue()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)

    def wait() -> None:
        while True:
            signal.sigwait(_STOP)
            codes.put(0)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return codes
