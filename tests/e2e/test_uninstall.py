"""Whoever removes the driver while pods have views: the pods go on, and can end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import PLUGIN, Installed
from tests.e2e.pod_batch import PodBatch


@pytest.fixture
def reinstalled(driver: Installed, pod_batch: PodBatch, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[Installed]:
    """The driver; installed again afterwards."""
    yield driver
    pod_batch.delete()
    wait_for(lambda: not driver.pods(), "the driver's pod is gone", within=60)
    driver.install()


def test_pods_outlive_the_driver_and_the_last_of_them_takes_it_along(
    reinstalled: Installed, node: Node, kubectl: Kubectl, pod_batch: PodBatch, wait_for: WaitFor
) -> None:
    pod_batch.create(3)
    pod_batch.wait_running(3, within=60)
    reinstalled.uninstall(wait=False)
    wait_for(lambda: not kubectl("get", "csidriver", "--no-headers"), "the driver's objects are gone")
    wait_for(reinstalled.terminating, "the driver's pod was told to end")

    for pod in pod_batch.pods():
        maps = Path(f"/proc/{node.first_process(pod, 'shop')}/maps").read_text()
        assert f"{manifests.AGENT}/{PRELOAD_LIBRARY}" in maps
    assert pod_batch.running() == 3
    pod_batch.check_views()

    kubectl("-n", pod_batch.namespace, "delete", "pod", "app-0", timeout=60)
    assert pod_batch.running() == 2
    pod_batch.delete()
    assert not reinstalled.views()
    wait_for(lambda: not reinstalled.pods(), "the driver's pod ends with the last view", within=60)
    assert not (PLUGIN / "csi.sock").exists()
