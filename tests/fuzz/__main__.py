"""The long run: a stated number of cases of each target, from a seed, on every core.

    python -m tests.fuzz [--target TARGET] [--cases N] [--seed S] [--jobs J]
    python -m tests.fuzz --again KIND NUMBER [--seed S]

A case that fails is named by its kind and number, and `--again` judges just that one. Memory is bounded from
without: a case that takes a gigabyte more than the start ends in a `MemoryError`, which is a failure.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from tests.fuzz import admission_reviews, answers, csi_requests, judging, preload_files

KINDS: Final[dict[str, Callable[[random.Random], str]]] = {
    "zip": judging.archive,
    "image": judging.image,
    "csi-request": csi_requests.judge,
    "admission-review": admission_reviews.judge,
    "answer": answers.judge,
    "preload-file": preload_files.judge,
}


@dataclass(frozen=True)
class Target:
    """What is tried: kinds of cases, in equal parts, and how many of them in all."""

    kinds: tuple[str, ...]
    cases: int


TARGETS: Final = {
    "packages": Target(("zip", "image"), 200_000),
    "csi-requests": Target(("csi-request",), 200_000),
    "admission-reviews": Target(("admission-review",), 50_000),
    "answers": Target(("answer",), 50_000),
    "preload-files": Target(("preload-file",), 100_000),
}
_BATCH: Final = 500
_MEMORY: Final = 1 << 30
_SECONDS: Final = 30.0
"""For one case, on however busy a machine."""


@dataclass
class Tally:
    """What became of some cases: how often taken ("") or refused by what, and the slowest."""

    results: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak_kib: int = 0

    def add(self, other: Tally) -> None:
        self.results += other.results
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)
        self.peak_kib = max(self.peak_kib, other.peak_kib)


def judge(kind: str, seed: int, number: int) -> str:
    return KINDS[kind](random.Random(f"{seed}/{kind}/{number}"))


def batch(kind: str, seed: int, numbers: range) -> Tally:
    tally = Tally()
    for number in numbers:
        started = time.perf_counter()
        try:
            tally.results[judge(kind, seed, number)] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            tally.failures.append(f"--seed {seed} --again {kind} {number}\n{traceback.format_exc()}")
        took = time.perf_counter() - started
        tally.slowest = max(tally.slowest, took)
        if took > _SECONDS:
            tally.failures.append(f"--seed {seed} --again {kind} {number}\ntook {took:.0f} s")
    tally.peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tally


def prepare(scratch: str) -> None:
    """Begin a worker: it leaves its files below `scratch`, because it runs no clean-up of its own at the end."""
    tempfile.tempdir = scratch
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))


def run(target: Target, seed: int, cases: int, jobs: int) -> Tally:
    """The kinds of a target share its cases."""
    each = cases // len(target.kinds)
    starts = range(0, each, _BATCH)
    work = [(kind, range(start, min(start + _BATCH, each))) for start in starts for kind in target.kinds]
    whole = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as scratch,
        ProcessPoolExecutor(jobs, initializer=prepare, initargs=(scratch,)) as pool,
    ):
        for done, tally in enumerate(pool.map(batch, *zip(*((k, seed, n) for k, n in work), strict=True)), 1):
            whole.add(tally)
            print(*tally.failures, sep="\n", end="", file=sys.stderr)
            if done % 20 == 0:
                print(f"{whole.results.total():,} cases, {len(whole.failures)} failures", flush=True)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Try packages and requests that nobody should send."
    )
    parser.add_argument("--target", choices=TARGETS, help="what to try (default: everything)")
    parser.add_argument("--cases", type=int, help="number of cases of each target (default: its own)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--again", nargs=2, metavar=("KIND", "NUMBER"), help="judge one case only")
    given = parser.parse_args()
    if given.again:
        print(judge(given.again[0], given.seed, int(given.again[1])) or "taken")
        return 0
    names = [given.target] if given.target else list(TARGETS)
    tallies = [report(name, given.seed, given.cases or TARGETS[name].cases, given.jobs) for name in names]
    return any(tally.failures for tally in tallies)


def report(name: str, seed: int, cases: int, jobs: int) -> Tally:
    """Run a target and print what became of its cases."""
    started = time.monotonic()
    tally = run(TARGETS[name], seed, cases, jobs)
    said = ", ".join(f"{count:,} {name or 'taken'}" for name, count in tally.results.most_common())
    seconds = time.monotonic() - started
    print(f"{name}, seed {seed}: {tally.results.total():,} cases in {seconds:,.0f} s: {said}")
    print(f"slowest case {tally.slowest:.2f} s, peak memory {tally.peak_kib >> 10} MiB, {len(tally.failures)} failures")
    return tally


if __name__ == "__main__":
    sys.exit(main())
