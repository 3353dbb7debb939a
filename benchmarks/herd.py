"""The load on a registry, and the time, while all nodes of a large cluster download a new version.

A simulation with the product's own delays: before a download (`--download-jitter`), between its attempts
(`download.DownloadLimits`), after a failed install (`installer`), and after a `Retry-After` (`backoff`).

The registry is a model. All transfers share its bandwidth equally, each up to that of a node. The number of transfers
is limited; any other request gets 429 and `Retry-After`. A download is a request for a token, one for the manifest,
and one for the blob in each attempt. A pull-through mirror is the same kind of server. It fetches the blob once from
the registry, and requests wait for that.

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
"""Token and manifest, before the first request for the blob."""
_SEED: Final = 1


@dataclass(slots=True)
class _Server:
    """Sends to all transfers at the same speed, so they end in the order of their start."""

    opens_at: float = 0.0
    sent: float = 0.0
    """Bytes that a transfer since the start has received."""
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

    def request(self, now: float, node: int, requests: int) -> bool:
        """Start a transfer; False for a response of 429."""
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

    def retry_delay(self) -> float:
        """Return the seconds until the next request: of `download`, or of `installer` after a failed download."""
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
    """`peak` is the highest number of requests in a second, of the registry and of the nodes' server."""

    registry_peak: int
    peak: int
    requests: int
    median_seconds: float
    p99_seconds: float
    """Time until 99 % of the nodes have the package."""


def simulate(nodes: int, spread_seconds: float, *, mirror: bool) -> SimulationResult:
    """Simulate a version that all nodes see at second 0."""
    random.seed(_SEED)
    server = _Server(opens_at=PACKAGE_BYTES / _NODE_BANDWIDTH if mirror else 0.0)
    simulated_nodes = [_Node() for _ in range(nodes)]
    queue = [(random.uniform(0.0, spread_seconds), number) for number in range(nodes)]
    heapq.heapify(queue)
    done: list[float] = []
    while len(done) < nodes:
        end = server.next_end()
        if queue and queue[0][0] <= end:
            now, number = heapq.heappop(queue)
            server.advance(now)
            if not server.request(now, number, simulated_nodes[number].requests + 1):
                heapq.heappush(queue, (now + simulated_nodes[number].retry_delay(), number))
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
    """Return the figures of the largest cluster with the default jitter."""
    simultaneous, spread = simulate(5000, 0.0, mirror=False), simulate(5000, installer.JITTER_SECONDS, mirror=False)
    return [
        results.shown("herd_5000_peak_together", simultaneous.registry_peak, "requests/s"),
        results.shown("herd_5000_peak", spread.registry_peak, "requests/s"),
        results.shown("herd_5000_p99_s", spread.p99_seconds, "s"),
    ]


def main() -> None:
    table = Table("nodes", "spread", "mirror", "registry peak/s", "server peak/s", "requests", "50 %", "99 %")
    for nodes in (100, 1000, 5000):
        for spread in (0.0, installer.JITTER_SECONDS, 600.0):
            for mirror in (False, True):
                result = simulate(nodes, spread, mirror=mirror)
                row = (nodes, f"{spread:g} s", "yes" if mirror else "no", result.registry_peak, result.peak)
                times = (f"{result.median_seconds:.0f} s", f"{result.p99_seconds:.0f} s")
                table.add_row(*map(str, row), str(result.requests), *times)
    Console().print(table)


if __name__ == "__main__":
    main()
