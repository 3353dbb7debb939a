"""The provisioner's command with a crash at a failpoint: `CRASH_AT=unpacked`; `unpacking:5` for its fifth hit."""

from __future__ import annotations

import os
import signal
import threading

from oneagent.csi_driver.provisioner import main


class CrashingFailpoint:
    """Counts the hits of a failpoint, then ends this process with SIGKILL."""

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
    raise SystemExit(main.run(main.parse(), CrashingFailpoint(os.environ["CRASH_AT"])))
