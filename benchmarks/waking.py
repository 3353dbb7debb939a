"""How long a publish that waits for its version goes on waiting once the version is there.

Measured from the rename that puts the version into the store to the call's answer, so the publish itself is part
of it: for one waiting volume at a time, and for a full node of them at once.
"""

from __future__ import annotations

import contextlib
import random
import time
import urllib.request
from pathlib import Path
from typing import Final

from benchmarks import bursts, floors, results
from benchmarks.results import Result
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import store_key
from tests.fakes import node, ports

_SINGLES: Final = 100
_CROWDS: Final = 5
_GAUGE: Final = "oneagent_csi_waiting_publishes "


def run() -> list[Result]:
    port = ports.free()
    with (
        floors.running(f"--metrics-address=127.0.0.1:{port}") as (driver, kubelet),
        contextlib.closing(bursts.Connections(driver.socket)) as connections,
    ):
        waker = _Waker(driver, kubelet, connections, port)
        single = [seconds for number in range(_SINGLES) for seconds in waker.wake(f"single{number}", 1)]
        seconds_of_bursts = [
            seconds for number in range(_CROWDS) for seconds in waker.wake(f"crowd{number}", bursts.PODS)
        ]
    return [
        results.at_most("wake_p99_ms", results.quantile(single, 99) * 1e3, "ms", 100),
        results.shown("wake_p50_ms", results.quantile(single, 50) * 1e3, "ms"),
        results.shown("wake_110_p50_ms", results.quantile(seconds_of_bursts, 50) * 1e3, "ms"),
        results.shown("wake_110_p99_ms", results.quantile(seconds_of_bursts, 99) * 1e3, "ms"),
    ]


class _Waker:
    def __init__(
        self, driver: node.Driver, kubelet: node.Kubelet, connections: bursts.Connections, metrics_port: int
    ) -> None:
        self._data = driver.data
        self._kubelet = kubelet
        self._connections = connections
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._staging = DataDir(driver.data.tmp / "staging")
        self._staging.create()

    def wake(self, name: str, count: int) -> list[float]:
        """Seconds from a new version's rename to the answer of each of `count` waiting publishes."""
        version = store_key.of_version(Version(f"1.300.0.{name}"), "benchmarks")
        node.install(self._staging, version)
        node.want(self._data, node.demo(version=version))
        pods = [f"{name}-{number}" for number in range(count)]
        for pod in pods:
            self._kubelet.target(pod).parent.mkdir(parents=True)
        answered: list[float] = []
        calls = self._connections.publish(self._kubelet, pods)
        for call in calls:
            call.add_done_callback(lambda _: answered.append(time.perf_counter()))
        while self._waiting() < count:
            time.sleep(0.005)
        # Nobody's clock is in step with the server's.
        time.sleep(random.uniform(0.02, 0.06))
        started = time.perf_counter()
        Path(self._staging.agent(version)).rename(self._data.agent(version))
        for call in calls:
            call.result()
        while len(answered) < count:
            time.sleep(0.001)
        for pod in pods:
            self._kubelet.unpublish(pod)
        return [at - started for at in answered]

    def _waiting(self) -> int:
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:
            text: str = answer.read().decode()
        return int(float(text.partition(f"\n{_GAUGE}")[2].split()[0]))
