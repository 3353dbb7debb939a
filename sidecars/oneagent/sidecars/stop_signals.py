"""How a sidecar's main thread learns that it has to end, and with which code.

`queue.SimpleQueue` and not `threading.Event`: its `put` is reentrant, so a signal handler may call it while
the same thread waits in `get`. Handlers are needed at all because process 1 of a container ignores SIGTERM
without one.
"""

from __future__ import annotations

import queue
import signal

ExitCodes = queue.SimpleQueue[int]


def catch() -> ExitCodes:
    """A queue that gets a 0 for each SIGTERM and SIGINT; other threads may put other exit codes into it."""
    codes: ExitCodes = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: codes.put(0))
    return codes
