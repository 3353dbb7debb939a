"""Whoever ends in the middle, driver, kubelet or the whole node: pods reach their state, and nothing is left."""

from __future__ import annotations

from tests.cluster.cluster import Cluster
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.pod_batch import PodBatch

SERVER = "oneagent-csi-server"


def test_a_driver_killed_in_the_middle_of_fifty_pod_starts_loses_none(
    driver: Installed, pod_batch: PodBatch, wait_for: WaitFor
) -> None:
    for wave in (range(17), range(17, 34), range(34, 50)):
        # Pods come to a driver that serves: those that wait for it would all get their views within a moment.
        wait_for(lambda: driver.runs(SERVER), "the driver serves", within=120, every=0.1)
        before = len(driver.views())
        pod_batch.create(wave)
        wait_for(lambda least=before + 2: len(driver.views()) >= least, f"views after {before}", 120, 0.02)  # type: ignore[misc]
        assert len(driver.views()) < 50, "all pods had their views before the driver was killed"
        driver.process(SERVER).kill()
    pod_batch.wait_running(50, within=240)
    pod_batch.check_views()
    pod_batch.delete()
    pod_batch.wait_nothing_is_left()


def test_after_a_power_cut_every_pod_gets_its_view_again(
    driver: Installed, cluster: Cluster, pod_batch: PodBatch, wait_for: WaitFor
) -> None:
    pod_batch.create(10)
    pod_batch.wait_running(10, within=120)
    cluster.node.power_cut()
    assert not driver.views()
    cluster.node.start_containerd()
    cluster.node.start_kubelet()
    wait_for(driver.ready, "the driver runs again", within=180, every=1)
    wait_for(lambda: len(driver.views()) == 10 and pod_batch.running() == 10, "all pods run again", within=240, every=1)
    pod_batch.check_views()
    pod_batch.delete()
    pod_batch.wait_nothing_is_left()


def test_a_kubelet_killed_during_teardown_finishes_it_after_its_restart(
    driver: Installed, cluster: Cluster, pod_batch: PodBatch, wait_for: WaitFor
) -> None:
    pod_batch.create(20)
    pod_batch.wait_running(20, within=120)
    pod_batch.delete(wait=False)
    wait_for(lambda: 0 < len(driver.views()) < 20, "some views are gone, some not yet")
    cluster.node.kubelet.kill()
    assert driver.views()
    cluster.node.start_kubelet()
    wait_for(lambda: not pod_batch.pods(), "all pods are gone", within=120, every=1)
    pod_batch.wait_nothing_is_left()
