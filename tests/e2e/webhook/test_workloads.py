"""Whatever creates a pod: its first process has the agent, and the agent knows what the pod belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, Manifest
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications

NAMESPACE: Final = "workloads"
KINDS: Final = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "ReplicationController": "v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "Pod": "v1",
}


def workload(kind: str) -> Manifest:
    """The smallest one of a kind; its name and the label `app` of its pods are the kind's in small letters."""
    name = kind.lower()
    pod = manifests.application(name, NAMESPACE)
    pod["metadata"]["labels"] = labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod["spec"]}
    once = {"spec": {**pod["spec"], "restartPolicy": "Never"}, "metadata": template["metadata"]}
    selector: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
    specs: dict[str, Any] = {
        "StatefulSet": {**selector, "serviceName": name},
        "ReplicationController": {"selector": labels, "template": template},
        "Job": {"template": once},
        # Far from every time at which this runs: it is started by hand.
        "CronJob": {"schedule": "0 0 31 2 *", "jobTemplate": {"spec": {"template": once}}},
        "Pod": pod["spec"],
    }
    return {
        "apiVersion": KINDS[kind],
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": specs.get(kind, selector),
    }


@pytest.fixture(scope="module")
def workloads(cluster: Cluster, kubectl: Kubectl, dynakube: str, wait_for: WaitFor) -> Iterator[Applications]:
    """One of every kind in a namespace."""
    namespace = manifests.namespace(NAMESPACE)
    namespace["metadata"]["labels"]["team"] = dynakube
    kubectl.apply(namespace)
    kubectl.apply(*(workload(kind) for kind in KINDS))
    kubectl("-n", NAMESPACE, "create", "job", "--from=cronjob/cronjob", "by-hand")
    yield Applications(cluster, NAMESPACE, wait_for)
    kubectl.delete(namespace, wait=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_process_is_monitored_and_knows_its_workload(workloads: Applications, kind: str) -> None:
    pod = workloads.running(labels=f"app={kind.lower()}")
    assert workloads.monitored(pod)
    enrichment = workloads.enrichment(pod)
    assert enrichment["dt.kubernetes.workload.kind"].lower() == kind.lower()
    assert enrichment["dt.kubernetes.workload.name"] == kind.lower()
    assert enrichment["k8s.pod.uid"] == pod["metadata"]["uid"]
    assert enrichment["k8s.pod.name"] == pod["metadata"]["name"]
    assert enrichment["k8s.namespace.name"] == NAMESPACE
    configuration = workloads.read(pod, "/var/lib/dynatrace/oneagent/agent/config/container.conf")
    assert "containerName shop" in configuration
    assert f"k8s_poduid {pod['metadata']['uid']}" in configuration
