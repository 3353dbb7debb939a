"""How a sidecar's main thread learns that it has to end, and with which code.

The signals are waited for by a thread of their own, not handled: what a handler does goes unnoticed if the signal
comes just before the main thread begins to wait. Process 1 of a container would ignore them otherwise.
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
