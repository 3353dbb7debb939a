"""Coverage by DynaKube and namespace, as Prometheus reads it of a node."""

from __future__ import annotations

from collections.abc import Iterable

from oneagent.common.prometheus import render
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server.coverage import MAX_PAIRS
from oneagent.csi_driver.server.metrics import ServerMetrics


def volume(state: VolumeState, dynakube: str = "shop", namespace: str = "carts", mode: str = "app") -> VolumeRecord:
    return VolumeRecord(VolumeId("csi-1"), mode, dynakube, "/target", state, pod_namespace=namespace)


def samples(volumes: Iterable[VolumeRecord], *dynakubes: str) -> dict[str, float]:
    """Of both gauges; names without the common prefix."""
    metrics, found = ServerMetrics(), list(volumes)
    metrics.coverage.start(lambda: found, lambda: dynakubes)
    lines = [line for line in render(metrics.registry).splitlines() if "_pods{" in line]
    return {line.rpartition(" ")[0].removeprefix("oneagent_csi_"): float(line.split()[-1]) for line in lines}


def test_only_a_mounted_view_is_monitoring() -> None:
    assert samples(
        [volume(state) for state in (VolumeState.MOUNTED, VolumeState.WAITING, VolumeState.EMPTY)], "shop"
    ) == {
        'eligible_pods{dynakube="shop",pod_namespace="carts"}': 3,
        'monitored_pods{dynakube="shop",pod_namespace="carts"}': 1,
    }


def test_pods_that_asked_for_files_only_and_host_agents_are_not_counted() -> None:
    found = [volume(VolumeState.WRITTEN, mode="conf"), volume(VolumeState.MOUNTED, mode="host")]
    assert samples(found, "shop") == {}


def test_a_name_that_a_pod_invented_becomes_no_label() -> None:
    found = [volume(VolumeState.WAITING, dynakube=f"invented-{number}") for number in range(3)]
    assert samples(found, "shop") == {
        'eligible_pods{dynakube="",pod_namespace=""}': 3,
        'monitored_pods{dynakube="",pod_namespace=""}': 0,
    }


def test_the_number_of_series_is_bounded_and_no_pod_is_left_out() -> None:
    found = samples((volume(VolumeState.MOUNTED, namespace=f"n{number}") for number in range(MAX_PAIRS + 50)), "shop")
    assert len(found) == 2 * (MAX_PAIRS + 1)
    assert sum(count for name, count in found.items() if name.startswith("monitored")) == MAX_PAIRS + 50


def test_without_a_volume_there_is_no_series() -> None:
    assert samples([]) == {}
