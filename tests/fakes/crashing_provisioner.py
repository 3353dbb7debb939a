"""The provisioner's command with a crash at a failpoint: `CRASH_AT=unpacked`; `unpacking:5` for its fifth hit.

`CRASH_SIGNAL=SIGSTOP` stops the process there instead of killing it.
"""

from __future__ import annotations

import os
import signal
import threading

from oneagent.csi_driver.provisioner import main


class CrashingFailpoint:
    """Counts the hits of a failpoint, then sends a signal to this process."""

    def __init__(self, at: str, number: signal.Signals) -> None:
        self._signal = number
        self._name, _, times = at.partition(":")
        self._left = int(times or 1)
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            self._left -= name == self._name
            if name == self._name and self._left == 0:
                os.kill(os.getpid(), self._signal)


if __name__ == "__main__":
    number = signal.Signals[os.environ.get("CRASH_SIGNAL", "SIGKILL")]
    raise SystemExit(main.run(main.parse(), CrashingFailpoint(os.environ["CRASH_AT"], number)))
