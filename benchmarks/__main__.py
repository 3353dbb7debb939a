"""`python -m benchmarks [name…]`: measure, print a table, and keep it in build/bench.json.

Run it in a mount namespace of its own, as `make bench` does. What was measured is kept even if a later
benchmark fails; a missed target is shown and is no failure of the command.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import (
    admission,
    agents,
    bursts,
    downloading,
    herd,
    installing,
    memory,
    preloading,
    publishing,
    results,
    sharing,
    unpacking,
    waking,
)
from benchmarks.results import Result

_KEPT: Final = Path("build/bench.json")


def _unpacking() -> list[Result]:
    return [Result(**row) for row in unpacking.run()]


_BENCHMARKS: Final[dict[str, Callable[[], list[Result]]]] = {
    "publishing": publishing.run,
    "growth": publishing.run_growth,
    "bursts": bursts.run,
    "waking": waking.run,
    "memory": memory.run,
    "installing": installing.run,
    "admission": admission.run,
    "unpacking": _unpacking,
    "downloading": downloading.run,
    "herd": herd.run,
    "sharing": sharing.run,
    "preloading": preloading.run,
    "agents": agents.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the product promises.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"what to measure: {', '.join(_BENCHMARKS)} (default: all)"
    )
    names: list[str] = parser.parse_args().names or list(_BENCHMARKS)
    if unknown := set(names) - set(_BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(_BENCHMARKS)}")
    if _is_the_machines_namespace():
        parser.error("this mounts: run it in a mount namespace of its own, with `make bench`")
    measured: list[Result] = []
    try:
        for name in names:
            started = time.monotonic()
            measured += _BENCHMARKS[name]()
            sys.stderr.write(f"{name}: measured in {time.monotonic() - started:.0f} s\n")
    finally:
        results.write(_KEPT, measured)
        results.show(measured)
    return 0


def _is_the_machines_namespace() -> bool:
    try:
        return Path("/proc/self/ns/mnt").readlink() == Path("/proc/1/ns/mnt").readlink()
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
