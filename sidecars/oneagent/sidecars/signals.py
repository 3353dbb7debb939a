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


def catch() -> ExitCodes:
    """A queue that gets a 0 for each SIGTERM and SIGINT; other threads may put other exit codes into it.

    To be called before any other thread is started: threads inherit that the signals are blocked.
    """
    codes: ExitCodes = queue.SimpleQueue()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)

    def wait() -> None:
        while True:
            signal.sigwait(_STOP)
            codes.put(0)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return codes
