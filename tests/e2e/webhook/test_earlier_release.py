"""Pods that an earlier release of the webhook has injected: they start, and run on while the driver is replaced."""

from __future__ import annotations

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook import earlier_release
from tests.e2e.webhook.applications import Applications, init_containers


def test_one_starts_with_its_init_container_and_stays_monitored_over_a_restart_of_the_driver(
    dynakube: str, kubectl: Kubectl, applications: Applications, driver: installation.Installed, wait_for: WaitFor
) -> None:
    pod = earlier_release.injected(manifests.application("earlier", applications.namespace), dynakube)
    found = applications.started(pod)
    assert init_containers(found) == [contract.INIT_CONTAINER]
    assert applications.monitored(found)
    assert "containerName shop" in applications.read(found, oneagent.CONTAINER_CONF_PATH)
    assert applications.enrichment(found)["k8s.pod.uid"] == found["metadata"]["uid"]
    kubectl("-n", NAMESPACE, "rollout", "restart", "daemonset/oneagent-csi-driver")
    kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/oneagent-csi-driver", "--timeout=120s", timeout=130)
    wait_for(driver.ready, "the driver is back", within=90)
    now = applications.running("metadata.name=earlier")
    assert now["metadata"]["uid"] == found["metadata"]["uid"]
    assert applications.monitored(now)
    kubectl("-n", applications.namespace, "delete", "pod", "earlier", "--timeout=60s")
