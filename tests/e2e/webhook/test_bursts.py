"""Many pods at once, and a kubelet that ends between the mounts of one: all of them get their agent."""

from __future__ import annotations

import os
from typing import Any

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.node import KUBELET
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications, is_ready

PODS = 60


def test_sixty_pods_at_once_have_the_agent_and_stay_best_effort(
    kubectl: Kubectl, applications: Applications, wait_for: WaitFor
) -> None:
    pod = manifests.application("many", applications.namespace)
    template = {"metadata": {"labels": {"app": "many"}}, "spec": pod["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many", "namespace": applications.namespace},
        "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "many"}}, "template": template},
    }
    applications.create(deployment)
    wait_for(lambda: sum(map(is_ready, applications.pods())) == PODS, f"{PODS} pods are ready", 300, 1)
    pods = applications.pods()
    assert {found["status"]["qosClass"] for found in pods} == {"BestEffort"}
    assert all(applications.monitored(found) for found in pods)
    kubectl.delete(deployment)
    wait_for(lambda: not applications.pods(), "all pods are gone", 180, 1)


def test_a_kubelet_killed_between_the_mounts_of_a_pod_finishes_them(
    cluster: Cluster, applications: Applications, wait_for: WaitFor
) -> None:
    """The volume is there, and the first container's files too; the second container's are not."""
    pod = manifests.application("cut", applications.namespace)
    pod["spec"]["initContainers"] = [manifests.container("prepare", "until test -e /tmp/go; do sleep 0.1; done")]
    pod["metadata"]["annotations"] = {"oneagent.dynatrace.com/inject-init-containers": "true"}
    pod["spec"]["containers"].append(manifests.container("second"))
    applications.create(pod)

    def mounted(container: str) -> bool:
        (found,) = applications.pods("metadata.name=cut")
        place = KUBELET / "pods" / found["metadata"]["uid"] / "volume-subpaths" / contract.BIN_VOLUME / container
        return place.is_dir() and bool(os.listdir(place))

    wait_for(lambda: mounted("prepare"), "the init container has its files", 60, 0.05)
    wait_for(lambda: waits(applications), "the init container runs", 60, 0.2)
    assert not mounted("shop")
    cluster.node.kubelet.kill()
    cluster.node.start_kubelet()
    wait_for(lambda: lets_go(applications), "the new kubelet knows the pod", 60, 0.5)
    found = applications.running("metadata.name=cut", within=120)
    for container in ("shop", "second"):
        assert applications.monitored(found, container)
        assert f"containerName {container}" in applications.read(found, oneagent.CONTAINER_CONF_PATH, container)


def lets_go(applications: Applications) -> bool:
    try:
        applications.kubectl("exec", "cut", "-c", "prepare", "--", "touch", "/tmp/go")
    except KubectlError:
        return False
    return True


def waits(applications: Applications) -> bool:
    found: list[dict[str, Any]] = [
        status
        for pod in applications.pods("metadata.name=cut")
        for status in pod["status"].get("initContainerStatuses", ())
    ]
    return any("running" in status["state"] for status in found)
