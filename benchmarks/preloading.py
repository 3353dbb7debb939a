"""Costs of the preload library in a process that it leaves alone, as a shell starts them by the hundred."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.results import Result
from tests import preload

_EXECUTIONS: Final = 1_000
_LIMIT_US: Final = 200.0


def run() -> list[Result]:
    """Start /bin/true with the library and without, in turns, so that whatever else the machine does hits both."""
    program = shutil.which("true") or "/bin/true"
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        view = preload.View(Path(place) / "view")
        bare: dict[str, str] = {"PATH": "/usr/bin:/bin"}
        loaded = bare | {"LD_PRELOAD": str(view.library)}
        times: dict[str, list[float]] = {"bare": [], "loaded": []}
        for _ in range(_EXECUTIONS):
            times["bare"].append(_execute(program, bare))
            times["loaded"].append(_execute(program, loaded))
    medians = {name: statistics.median(samples) * 1e6 for name, samples in times.items()}
    return [
        results.shown("preload_bare_exec_us", medians["bare"], "µs"),
        results.at_most("preload_exec_us", medians["loaded"] - medians["bare"], "µs", _LIMIT_US),
    ]


def _execute(program: str, environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its end."""
    started = time.perf_counter()
    process = os.posix_spawn(program, [program], environment)
    _, status = os.waitpid(process, 0)
    took = time.perf_counter() - started
    assert status == 0
    return took
