"""Reports of a node: its Lease, the Events that the operator makes of it, and that it writes no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common import node_lease
from oneagent.common.node_lease import DynaKubeReport
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.node import Node
from tests.e2e import manifests, operator_process
from tests.e2e.fixture_types import Apply, Release, WaitFor
from tests.e2e.installation import IMAGE, Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes.tenant import Tenant

NAME: Final = "reported"
OLDER: Final = "older-node"
EARLIER: Final = "localhost/oneagent-csi:0.0.9"
MISSING: Final = "1.299.0.20260902-120000"


def reported(kubectl: Kubectl) -> tuple[DynaKubeReport, ...]:
    """The report in the node's Lease about the test's DynaKube."""
    found = kubectl.json("-n", NAMESPACE, "get", "leases", "-l", node_lease.SELECTOR)["items"]
    reports = dict(map(node_lease.read, found))
    return tuple(kube for kube in reports.get(Node.name, node_lease.NodeReport()).dynakubes if kube.name == NAME)


def test_a_failure_and_its_end_are_in_the_lease_and_in_one_event_each_with_the_number_of_nodes(
    cluster: Cluster,
    driver: Installed,
    dynatrace: Tenant,
    kubectl: Kubectl,
    apply: Apply,
    release: Release,
    wait_for: WaitFor,
    operator: operator_process.Operator,
    tmp_path: Path,
) -> None:
    version = release()
    apply(*manifests.dynakube(NAME, dynatrace.api_url, MISSING))
    wait_for(lambda: [kube.state for kube in reported(kubectl)] == ["failed"], "the node reports a failure")
    (lease,) = kubectl.json("-n", NAMESPACE, "get", "leases", "-l", node_lease.SELECTOR)["items"]
    assert lease["metadata"]["ownerReferences"][0]["name"] == driver.pods()[0]["metadata"]["name"]

    def said(reason: str) -> str:
        fields = f"involvedObject.name={NAME},reason={reason}"
        events = kubectl.json("-n", NAMESPACE, "get", "events", f"--field-selector={fields}")["items"]
        assert len(events) <= 1
        return str(events[0]["message"]) if events else ""

    message = wait_for(lambda: said("FailedInstallAgentVersion"), "an Event about the failure")
    assert f"version {MISSING} was not installed on 1 of 1 nodes, as on {Node.name}: " in message
    problems = Plugin(cluster, tmp_path).json("status")["problems"]
    (problem,) = (problem for problem in problems if f"DynaKube {NAME}" in problem["sentence"])
    assert problem["remedy"].startswith("set codeModulesVersion of the DynaKube to a version that the tenant has")
    apply(*manifests.dynakube(NAME, dynatrace.api_url, version))
    wait_for(lambda: reported(kubectl) == (DynaKubeReport(NAME, version, "ready"),), "the node reports the version")
    message = wait_for(lambda: said("InstallAgentVersion"), "an Event about the version")
    assert message == f"Agent version {version} is on 1 of 1 nodes"


@pytest.mark.parametrize("name", ["oneagent-operator", "other"])
def test_a_node_writes_no_other_lease(
    name: str, cluster: Cluster, driver: Installed, wait_for: WaitFor, tmp_path: Path
) -> None:
    rights = Kubectl(operator_process.kubeconfig(cluster, tmp_path / "kubeconfig", "oneagent-csi-driver"))
    metadata = {"name": name, "namespace": NAMESPACE}
    lease = json.dumps({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})

    def refused() -> bool:
        try:
            rights("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=lease)
        except KubectlError as error:
            return "its own node, and no other" in str(error)
        return False

    # The API server heeds a new policy after a moment.
    wait_for(refused, "the policy is in force")


@pytest.fixture
def older_node(driver: Installed, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[str]:
    """A second node, without a kubelet, on which the driver has the image of an earlier release."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": OLDER}
    kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": OLDER, "labels": labels}})
    ready = [{"type": "Ready", "status": "True"}]
    room = {"cpu": "8", "memory": "16Gi", "pods": "10"}
    _patch_status(kubectl, "node", OLDER, {"conditions": ready, "capacity": room, "allocatable": room})

    def found() -> str:
        return next((pod["metadata"]["name"] for pod in driver.pods() if pod["spec"].get("nodeName") == OLDER), "")

    name = wait_for(found, "the DaemonSet has a pod for the node")
    images = [{"op": "replace", "path": f"/spec/containers/{number}/image", "value": EARLIER} for number in range(4)]
    kubectl("-n", NAMESPACE, "patch", "pod", name, "--type=json", "-p", json.dumps(images))
    _patch_status(kubectl, "pod", name, {"phase": "Running", "conditions": ready})
    yield OLDER
    kubectl("delete", "node", OLDER)
    kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found")
    kubectl("-n", NAMESPACE, "delete", "lease", node_lease.lease_name(OLDER), "--ignore-not-found")


def _patch_status(kubectl: Kubectl, kind: str, name: str, status: dict[str, Any]) -> None:
    kubectl("-n", NAMESPACE, "patch", kind, name, "--subresource=status", "-p", json.dumps({"status": status}))


def test_nodes_of_two_releases_go_on_together_and_status_names_both(
    cluster: Cluster,
    driver: Installed,
    dynatrace: Tenant,
    kubectl: Kubectl,
    apply: Apply,
    release: Release,
    wait_for: WaitFor,
    operator: operator_process.Operator,
    older_node: str,
    tmp_path: Path,
) -> None:
    version = release()
    apply(*manifests.dynakube(NAME, dynatrace.api_url, version))
    # Its report lacks a field that this release writes, and has one that this release does not know.
    report = {"dynakubes": [{"name": NAME, "version": version, "state": "ready", "since": 1}]}
    lease = node_lease.manifest(older_node, NAMESPACE, node_lease.NodeReport(), None)
    lease["metadata"]["annotations"][node_lease.ANNOTATION] = json.dumps(report)
    apply(lease)
    wait_for(lambda: reported(kubectl) == (DynaKubeReport(NAME, version, "ready"),), "this release's node has it")

    def said() -> str:
        fields = f"involvedObject.name={NAME},reason=InstallAgentVersion"
        events = kubectl.json("-n", NAMESPACE, "get", "events", f"--field-selector={fields}")["items"]
        return " ".join(str(event["message"]) for event in events)

    wait_for(lambda: f"version {version} is on 2 of 2 nodes" in said(), "an Event counts both nodes")
    status = " ".join(Plugin(cluster, tmp_path)("status").stdout.split())
    assert f"{EARLIER} on {older_node}; {IMAGE} on {Node.name}" in status, status
