"""Calls, bursts, processor time and memory of drivers, which are measured in turns.

Seconds and MiB, by the driver's name.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from benchmarks import bursts, floors, publishing
from benchmarks.incumbent.drivers import Driver
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.proto.csi.v1 import csi_pb2

_IDLE_SECONDS: Final = 5.0
_FIRST_RETRY_SECONDS: Final = 0.5
"""Kubelet's pause after the first failure of a volume; it doubles with each further one."""


@dataclass
class Calls:
    """One value a turn, and the processor time of all turns."""

    publish: list[float] = field(default_factory=list)
    unpublish: list[float] = field(default_factory=list)
    processor_seconds: float = 0.0


@dataclass
class Bursts:
    """One value a round."""

    seconds: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


def mounts(driver: Driver) -> int:
    """Return the number of mounts that a pod costs, of which the one at the target has to be an overlay."""
    target = driver.kubelet.publish("mounts")
    found = driver.mounts("mounts")
    assert (target / PRELOAD_LIBRARY).exists(), f"{driver.name}: no agent in {target}"
    driver.kubelet.unpublish("mounts")
    assert {one.fs_type for one in found} == {"overlay"}, f"{driver.name}: {found}"
    assert not driver.mounts("mounts"), f"{driver.name} has left a mount"
    return len(found)


def calls(prefix: str, turns: int, drivers: Sequence[Driver]) -> dict[str, Calls]:
    """Publish and unpublish so many volumes, one at a time; the order of the drivers changes with each turn."""
    found = {driver.name: Calls() for driver in drivers}
    before = {driver.name: driver.processor_seconds() for driver in drivers}
    for turn in range(turns):
        pod, order = f"{prefix}{turn}", drivers[:: -1 if turn % 2 else 1]
        for driver in order:
            driver.kubelet.target(pod).parent.mkdir(parents=True)
        for driver in order:
            found[driver.name].publish.append(publishing.publish(driver.kubelet, pod))
        for driver in order:
            found[driver.name].unpublish.append(publishing.unpublish(driver.kubelet, pod))
    for driver in drivers:
        found[driver.name].processor_seconds = driver.processor_seconds() - before[driver.name]
    return found


def measure_bursts(prefix: str, rounds: int, drivers: Sequence[Driver]) -> dict[str, Bursts]:
    """Publish a full node's pods at once, as kubelet does; the first round is for warming up."""
    found = {driver.name: Bursts() for driver in drivers}
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(futures.ThreadPoolExecutor(bursts.PODS))
        connections = {
            driver.name: stack.enter_context(contextlib.closing(bursts.Connections(driver.socket)))
            for driver in drivers
        }
        for turn in range(-1, rounds):
            pods = [f"{prefix}{turn}-{number}" for number in range(bursts.PODS)]
            for driver in drivers[:: -1 if turn % 2 else 1]:
                seconds, refused = _burst(pool, driver, connections[driver.name], pods)
                if turn >= 0:
                    found[driver.name].seconds.append(seconds)
                    found[driver.name].refused.append(refused)
    return found


def _burst(
    pool: futures.ThreadPoolExecutor, driver: Driver, connections: bursts.Connections, pods: Sequence[str]
) -> tuple[float, int]:
    """Return the seconds until the last pod has its volume, and how many calls were refused until then."""
    requests = []
    for pod in pods:
        driver.kubelet.target(pod).parent.mkdir(parents=True)
        requests.append(driver.kubelet.request(pod))
    nodes = [connections.nodes[number % len(connections.nodes)] for number in range(len(pods))]
    started = time.perf_counter()
    refused = sum(pool.map(_publish_until_accepted, nodes, requests))
    seconds = time.perf_counter() - started
    for pod in pods:
        assert driver.mounts(pod), f"{driver.name} has mounted nothing for {pod}"
        driver.kubelet.unpublish(pod)
    return seconds, refused


def _publish_until_accepted(stub: Any, request: csi_pb2.NodePublishVolumeRequest) -> int:
    """Retry a refused call as kubelet does; return the number of refusals."""
    refused = 0
    while True:
        try:
            stub.NodePublishVolume(request, timeout=floors.CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            time.sleep(_FIRST_RETRY_SECONDS * 2**refused)
            refused += 1
        else:
            return refused


def memory(drivers: Sequence[Driver]) -> dict[str, tuple[float, float]]:
    """Return the memory of a driver's processes and its private dirty pages, once they are idle."""
    time.sleep(_IDLE_SECONDS)
    return {driver.name: (driver.held_mib(), driver.private_dirty_mib()) for driver in drivers}
