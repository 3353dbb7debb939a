"""The real server, killed by SIGKILL at a step of its own choosing: no `finally`, no commit, no tidying up.

CRASH_AT=<step>     die at the first step of this name (`<step>#2`: at the second)
CRASH_TRACE=<file>  write down every step that is passed, so that a test can know them all
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

from oneagent.csi_driver.server import main

_passed: Counter[str] = Counter()
_guard = threading.Lock()


def failpoint(name: str) -> None:
    with _guard:
        _passed[name] += 1
        if trace := os.environ.get("CRASH_TRACE"):
            with open(trace, "a") as file:
                file.write(f"{name}\n")
        wanted, _, count = os.environ.get("CRASH_AT", "").partition("#")
        if name == wanted and _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main.run(main.parse(), failpoint=failpoint))
