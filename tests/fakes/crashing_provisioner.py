"""The provisioner's command, which kills itself at a step: `CRASH_AT=unpacked`, or `unpacking:5` for the fifth time."""

from __future__ import annotations

import os
import signal
import threading

from oneagent.csi_driver.provisioner import main


class Crash:
    """Counts a step down, and ends this process by a signal that nothing can catch."""

    def __init__(self, at: str) -> None:
        self._name, _, times = at.partition(":")
        self._left = int(times or 1)
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            self._left -= name == self._name
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main.run(main.parse(), Crash(os.environ["CRASH_AT"])))
