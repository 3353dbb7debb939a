"""110 pods at once, a full node's worth: what kubelet asks for after a reboot.

The publishes go out together on several connections, since kubelet opens one for each call. Against them stand
110 empty calls and bare mounts one after the other: a driver that does two things at once may be faster.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks import floors, results
from benchmarks.results import Result
from oneagent.common.proto.csi.v1 import csi_pb2_grpc
from tests.fakes import node

PODS: Final = 110
_CONNECTIONS: Final = 10
_ROUNDS: Final = 15


class Connections:
    """Several connections of their own to one driver, used in turns."""

    def __init__(self, socket: Path) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(f"unix:{socket}", options=options) for _ in range(_CONNECTIONS)]
        self.nodes = [csi_pb2_grpc.NodeStub(channel) for channel in self._channels]
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(10)

    def publish(self, kubelet: node.Kubelet, pods: list[str]) -> list[Any]:
        """The calls, all under way."""
        requests = [kubelet.request(pod) for pod in pods]
        return [
            self.nodes[number % _CONNECTIONS].NodePublishVolume.future(request, timeout=floors.CALL_SECONDS)
            for number, request in enumerate(requests)
        ]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def run() -> list[Result]:
    seconds: list[float] = []
    ratios: list[float] = []
    errors = 0
    with (
        floors.running() as (driver, kubelet),
        floors.beside(driver, kubelet) as floor,
        contextlib.closing(Connections(driver.socket)) as connections,
    ):
        for number in range(-1, _ROUNDS):
            names = [f"round{number}-{pod}" for pod in range(PODS)]
            bare = _one_by_one(kubelet, floor, names)
            started = time.perf_counter()
            calls = connections.publish(kubelet, names)
            errors += sum(call.exception() is not None for call in calls)
            spent = time.perf_counter() - started
            for name in names:
                kubelet.unpublish(name)
                floor.unmount(name)
            if number >= 0:  # the first round is for warming up
                seconds.append(spent)
                ratios.append(spent / bare)
    return [
        results.at_most("burst_110_ratio", results.quantile(ratios, 50), "x", 2.0),
        results.at_most("burst_110_errors", errors, "errors", 0),
        results.shown("burst_110_ms", results.quantile(seconds, 50) * 1e3, "ms"),
    ]


def _one_by_one(kubelet: node.Kubelet, floor: floors.Floor, names: list[str]) -> float:
    for name in names:
        kubelet.target(name).parent.mkdir(parents=True)
        floor.prepare(name)
    return sum(floor.call() + floor.mount(name) for name in names)
