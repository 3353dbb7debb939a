"""kubelet knows the driver by its registration, and knows it again whoever of the two was away."""

from __future__ import annotations

import psutil

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import PLUGIN, Installed
from tests.e2e.manifests import NAMESPACE

REGISTRATION = PLUGIN.parents[1] / "plugins_registry/csi.oneagent.dynatrace.com-reg.sock"


def test_the_csinode_lists_the_driver(driver: Installed, wait_for: WaitFor) -> None:
    wait_for(driver.registered, "the CSINode lists the driver", within=15)


def test_a_restarted_kubelet_finds_the_driver_again(driver: Installed, cluster: Cluster, wait_for: WaitFor) -> None:
    cluster.node.kubelet.stop()
    # What kubelet wrote before it was stopped must not pass for what it does now.
    cluster.kubectl("patch", "csinode", "node1", "--type=merge", "-p", '{"spec": {"drivers": null}}')
    cluster.node.start_kubelet()
    wait_for(driver.registered, "kubelet registers the driver after its restart", within=60)


def test_a_driver_pod_that_was_deleted_comes_back_and_registers(
    driver: Installed, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    before = driver.process("oneagent-csi-server").pid
    kubectl("-n", NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=csi-driver", timeout=90)
    wait_for(lambda: driver.ready() and driver.registered(), "a new driver pod registers", within=60)
    assert driver.process("oneagent-csi-server").pid != before
    assert REGISTRATION.is_socket()


def test_the_liveness_probe_restarts_a_server_that_hangs(
    driver: Installed, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    server = driver.process("oneagent-csi-server")
    server.suspend()
    wait_for(lambda: not psutil.pid_exists(server.pid), "kubelet restarts the server that does not answer", within=120)
    wait_for(lambda: driver.ready() and driver.registered(), "the driver is ready again", within=60)
