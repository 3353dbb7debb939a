"""A new version on every node of a large cluster at once: what a registry sees, and how long it takes.

A simulation, with the product's own pauses: when a node begins (`--download-jitter`), when it tries again within a
download (`download.DownloadLimits`) and after a failed one (`installer`), and how it heeds a `Retry-After` (`backoff`).

The registry is a model. It sends with a bandwidth that all transfers share equally, none with more than a node's; it
serves so many transfers at a time and answers any other request with 429 and `Retry-After`. A package is brought by a
request for a token, one for the manifest, and one for the blob in every try. A pull-through mirror is such a server
too; it fetches the blob itself once, holds who asks meanwhile, and the registry sees nobody else.

    python -m benchmarks.herd
"""

from __future__ import annotations

import collections
import heapq
import random
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.results import Result
from oneagent.common import backoff
from oneagent.common.http import download
from oneagent.csi_driver.provisioner import installer

PACKAGE_BYTES: Final = 300e6
_BANDWIDTH: Final = 1.25e9
"""Bytes a second of a server: 10 Gbit/s."""
_NODE_BANDWIDTH: Final = 125e6
_TRANSFERS: Final = 500
_RETRY_AFTER: Final = 10.0
_FIRST_REQUESTS: Final = 2
"""Token and manifest, before the blob is asked for the first time."""
_SEED: Final = 1


@dataclass(slots=True)
class _Server:
    """Sends to all transfers at the same speed, so the order in which they end is the one in which they began."""

    opens_at: float = 0.0
    sent: float = 0.0
    """Bytes that a transfer has got which has been there from the beginning."""
    at: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    requests: collections.Counter[int] = field(default_factory=collections.Counter)

    @property
    def _speed(self) -> float:
        return min(_NODE_BANDWIDTH, _BANDWIDTH / len(self.ends)) if self.ends else 0.0

    def advance(self, now: float) -> None:
        since = max(self.at, self.opens_at)
        self.sent += max(0.0, now - since) * self._speed
        self.at = now

    def next_end(self) -> float:
        if not self.ends:
            return float("inf")
        return max(self.at, self.opens_at) + (self.ends[0][0] - self.sent) / self._speed

    def ask(self, now: float, node: int, requests: int) -> bool:
        """Whether it sends; otherwise it has answered 429."""
        self.requests[int(now)] += requests
        if len(self.ends) >= _TRANSFERS:
            return False
        heapq.heappush(self.ends, (self.sent + PACKAGE_BYTES, node))
        return True


@dataclass(slots=True)
class _Node:
    attempts: int = 0
    failures: int = 0
    requests: int = _FIRST_REQUESTS

    def refused(self) -> float:
        """Seconds until it asks again: as `downloads` does it, and `installs` once that has given up."""
        self.attempts += 1
        if self.attempts < download.DEFAULT_LIMITS.attempts:
            self.requests = 0
            return backoff.at_least(download.DEFAULT_LIMITS.pause(self.attempts), _RETRY_AFTER)
        self.attempts, self.requests = 0, _FIRST_REQUESTS
        self.failures += 1
        pause = backoff.exponential(self.failures, installer.FIRST_PAUSE, installer.LONGEST_PAUSE)
        return backoff.at_least(pause, _RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """`peak` is the most requests that the registry, and the server that nodes ask, got in a second."""

    registry_peak: int
    peak: int
    requests: int
    half_seconds: float
    most_seconds: float
    """When 99 % of the nodes had the package."""


def simulate(nodes: int, spread_seconds: float, *, mirror: bool) -> SimulationResult:
    """All nodes learn of the version at second 0."""
    random.seed(_SEED)
    server = _Server(opens_at=PACKAGE_BYTES / _NODE_BANDWIDTH if mirror else 0.0)
    simulated_nodes = [_Node() for _ in range(nodes)]
    asking = [(random.uniform(0.0, spread_seconds), number) for number in range(nodes)]
    heapq.heapify(asking)
    done: list[float] = []
    while len(done) < nodes:
        end = server.next_end()
        if asking and asking[0][0] <= end:
            now, number = heapq.heappop(asking)
            server.advance(now)
            if not server.ask(now, number, simulated_nodes[number].requests + 1):
                heapq.heappush(asking, (now + simulated_nodes[number].refused(), number))
        else:
            server.advance(end)
            heapq.heappop(server.ends)
            done.append(end)
    peak = max(server.requests.values())
    return SimulationResult(
        _FIRST_REQUESTS + 1 if mirror else peak,
        peak,
        server.requests.total(),
        results.quantile(done, 50),
        results.quantile(done, 99),
    )


def run() -> list[Result]:
    """The figures for the largest cluster, by the default spread."""
    together, spread = simulate(5000, 0.0, mirror=False), simulate(5000, 60.0, mirror=False)
    return [
        results.shown("herd_5000_peak_together", together.registry_peak, "requests/s"),
        results.shown("herd_5000_peak", spread.registry_peak, "requests/s"),
        results.shown("herd_5000_p99_s", spread.most_seconds, "s"),
    ]


def main() -> None:
    table = Table("nodes", "spread", "mirror", "registry peak/s", "asked peak/s", "requests", "50 %", "99 %")
    for nodes in (100, 1000, 5000):
        for spread in (0.0, 60.0, 600.0):
            for mirror in (False, True):
                found = simulate(nodes, spread, mirror=mirror)
                row = (nodes, f"{spread:g} s", "yes" if mirror else "no", found.registry_peak, found.peak)
                times = (f"{found.half_seconds:.0f} s", f"{found.most_seconds:.0f} s")
                table.add_row(*map(str, row), str(found.requests), *times)
    Console().print(table)


if __name__ == "__main__":
    main()
