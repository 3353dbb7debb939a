"""Without a CSI driver on the cluster: the init container brings the agent, and no token of a tenant comes near it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook import namespace_limits
from tests.e2e.webhook.applications import Applications, untouched
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.e2e.webhook.namespace_limits import CASES, SMALL, Bounds
from tests.fakes import tenant


@pytest.fixture(scope="module", autouse=True)
def without_csi(dynakube: str, kubectl: Kubectl) -> Iterator[None]:
    driver = [one for one in installation.manifests("csi-driver.yaml") if one["kind"] == "CSIDriver"]
    kubectl.delete(*driver)
    yield
    kubectl.apply(*driver)


@pytest.fixture
def prepared(kubectl: Kubectl, monitored: str, wait_for: WaitFor) -> str:
    """A namespace that has what its pods need."""
    find = ("-n", monitored, "get", "secret", contract.INJECTION_SECRET, "--ignore-not-found", "-o", "name")
    wait_for(lambda: kubectl(*find), "the namespace's Secret")
    return monitored


def application(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    """This cluster has no DNS, so the pod is told the one address that it asks for."""
    pod = manifests.application(name, namespace)
    service = kubectl.json("-n", NAMESPACE, "get", "service", "oneagent-operator")
    host = f"oneagent-operator.{NAMESPACE}.svc"
    pod["spec"]["hostAliases"] = [{"ip": service["spec"]["clusterIP"], "hostnames": [host]}]
    return pod


def test_the_first_process_has_the_agent_from_the_operator(
    kubectl: Kubectl, applications: Applications, prepared: str, plugin: Plugin
) -> None:
    pod = applications.started(application(kubectl, prepared, "app"))
    assert applications.monitored(pod)
    (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == contract.BIN_VOLUME)
    assert "emptyDir" in volume
    assert not pod["spec"].get("imagePullSecrets")
    assert applications.enrichment(pod)["k8s.pod.uid"] == pod["metadata"]["uid"]
    log = f"{oneagent.INSTALL_PATH}/agent/log/shop.log"
    applications.kubectl("exec", "app", "--", "sh", "-c", f"id -u > {log}")
    assert applications.read(pod, log) == "10001\n"
    assert plugin.why(f"{prepared}/app")["verdict"]["reason"] == "Monitored"


def test_no_api_token_is_in_the_namespace_or_the_pod(
    kubectl: Kubectl, applications: Applications, prepared: str
) -> None:
    (secret,) = kubectl.json("-n", prepared, "get", "secrets")["items"]
    assert tenant.TOKEN not in manifests.decoded(secret)
    pod = applications.started(application(kubectl, prepared, "app"))
    assert tenant.TOKEN not in str(pod)


@pytest.mark.parametrize(("policy", "starts"), [("silent", True), ("fail", False)])
def test_a_package_that_cannot_be_had_holds_a_pod_up_only_if_it_wants_that(
    kubectl: Kubectl, applications: Applications, prepared: str, plugin: Plugin, wait_for: WaitFor, policy: str,
    starts: bool,
) -> None:  # fmt: skip
    pod = manifests.application("lost", prepared)
    pod["metadata"]["annotations"] = {"oneagent.dynatrace.com/failure-policy": policy}
    # Nobody listens there.
    pod["spec"]["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": [f"oneagent-operator.{NAMESPACE}.svc"]}]
    applications.create(pod)
    if starts:
        found = applications.running("metadata.name=lost", within=90)
        assert not applications.monitored(found)
        assert applications.is_quiet(found)
    else:
        template = (
            "jsonpath={.status.initContainerStatuses[0].state.terminated.message}"
            "{.status.initContainerStatuses[0].lastState.terminated.message}"
        )
        message = wait_for(lambda: applications.kubectl("get", "pod", "lost", "-o", template), "it says why", 90, 1)
        assert "oneagent-operator" in message
    verdict = plugin.why(f"{prepared}/lost")["verdict"]
    assert verdict["reason"] == "InstallFailed"
    assert "do network policies let this pod reach it?" in verdict["sentence"]
    assert ("runs without its agent" if starts else "can't start yet") in verdict["sentence"]


@pytest.mark.parametrize("bounds", CASES, ids=lambda bounds: bounds.name)
def test_a_pod_that_just_keeps_the_bounds_of_its_namespace_has_the_agent(
    bounds: Bounds, kubectl: Kubectl, applications: Applications, prepared: str, wait_for: WaitFor
) -> None:
    pod = application(kubectl, prepared, "bounded")
    pod["spec"]["containers"][0]["resources"] = bounds.resources
    namespace_limits.apply(bounds, kubectl, prepared, wait_for)
    found = applications.started(pod)
    assert applications.monitored(found)
    assert namespace_limits.resources_of_ours(found) == found["spec"]["containers"][0]["resources"]


def test_a_pod_whose_namespace_has_no_room_for_an_agent_starts_without(
    kubectl: Kubectl, applications: Applications, prepared: str, wait_for: WaitFor
) -> None:
    namespace_limits.apply(SMALL, kubectl, prepared, wait_for)
    found = applications.started(application(kubectl, prepared, "small"))
    assert untouched(found)
    assert "at least cpu 100m and memory 96Mi" in applications.events("LimitsTooLow")
