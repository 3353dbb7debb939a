"""Whatever happens to the webhook or the driver: pods start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications, untouched
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes.admission import Webhook

CONFIGURATION: Final = ("mutatingwebhookconfiguration", "oneagent-webhook")
TIMEOUT_SECONDS: Final = 5
LONGEST_SECONDS: Final = TIMEOUT_SECONDS + 2
"""The API server gives up after the configuration's timeout; the rest is kubectl's."""


@pytest.fixture
def redirected(kubectl: Kubectl, applications: Applications, wait_for: WaitFor) -> Iterator[Any]:
    """The API server is led to another webhook for pods, and back again after the test."""
    before = kubectl.json("get", *CONFIGURATION)["webhooks"]

    def lead(client_config: dict[str, str]) -> None:
        webhooks = json.loads(json.dumps(before))
        webhooks[0]["clientConfig"] = client_config
        kubectl("patch", *CONFIGURATION, "--type=merge", "-p", json.dumps({"webhooks": webhooks}))

    # Operator and API server would argue about caBundle.
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-operator", "--replicas=0")
    kubectl("-n", NAMESPACE, "wait", "pod", "-l", "app.kubernetes.io/component=operator", "--for=delete")
    yield lead
    kubectl("patch", *CONFIGURATION, "--type=merge", "-p", json.dumps({"webhooks": before}))
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-operator", "--replicas=1")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/oneagent-operator", "--timeout=60s", timeout=70)
    wait_for(applications.are_injected, "the API server is led to the webhook again")


def created_unmonitored(applications: Applications, wait_for: WaitFor) -> float:
    """Create pods until one comes through unmonitored, which it is from the change on; how long that one took."""
    for number in range(30):
        began = time.monotonic()
        applications.create(manifests.application(f"pod-{number}", applications.namespace))
        seconds = time.monotonic() - began
        (pod,) = applications.pods(f"metadata.name=pod-{number}")
        if untouched(pod):
            applications.running(f"metadata.name=pod-{number}")
            return seconds
        time.sleep(0.1)
    pytest.fail("all pods were injected")


def test_pods_start_while_it_is_away(
    kubectl: Kubectl, applications: Applications, wait_for: WaitFor, webhook: None
) -> None:
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=0")
    try:
        kubectl("-n", NAMESPACE, "wait", "pod", "-l", "app.kubernetes.io/component=webhook", "--for=delete")
        assert created_unmonitored(applications, wait_for) < LONGEST_SECONDS
    finally:
        kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=2")
        kubectl("-n", NAMESPACE, "rollout", "status", "deployment/oneagent-webhook", "--timeout=60s", timeout=70)
        wait_for(applications.are_injected, "the API server reaches the webhook")


def test_pods_start_while_it_is_slow(applications: Applications, wait_for: WaitFor, redirected: Any) -> None:
    with Webhook(Node.address, lambda pod: (), seconds=8) as slow:
        redirected(slow.client_config())
        assert TIMEOUT_SECONDS - 1 < created_unmonitored(applications, wait_for) < LONGEST_SECONDS


def test_pods_start_while_its_certificate_has_expired(
    applications: Applications, wait_for: WaitFor, redirected: Any
) -> None:
    with Webhook(Node.address, lambda pod: (), expired=True) as late:
        redirected(late.client_config())
        assert created_unmonitored(applications, wait_for) < LONGEST_SECONDS


def test_without_a_driver_pods_go_through_unchanged_and_everyone_is_told(
    kubectl: Kubectl, applications: Applications, wait_for: WaitFor, driver: installation.Installed, plugin: Plugin
) -> None:
    """The driver's DaemonSet is gone; the CSIDriver, and with it the wish for views, is still there."""
    daemon_set = [one for one in installation.manifests("csi-driver.yaml") if one["kind"] == "DaemonSet"]
    kubectl.delete(*daemon_set)
    try:
        created_unmonitored(applications, wait_for)
        pod = applications.pods()[-1]
        assert pod["metadata"]["annotations"]["oneagent.dynatrace.com/reason"] == "DriverUnavailable"
        wait_for(lambda: events(kubectl).count("InjectionPaused") == 1, "an Event of the DynaKube says it")
        gone = "the DaemonSet oneagent-csi-driver is not: new pods start without their agent"
        for found in (plugin.json("status")["problems"], plugin.findings()):
            assert [one["check"] for one in found if gone in one["sentence"]] == ["Driver"], found
        verdict = plugin.why(f"{applications.namespace}/{pod['metadata']['name']}")["verdict"]
        assert verdict["reason"] == "DriverUnavailable"
        assert verdict["remedy"].startswith("kubectl oneagent status has the driver's problem; then restart")
    finally:
        kubectl.apply(*daemon_set)
        wait_for(driver.ready, "the driver is back", within=90)
    wait_for(lambda: "InjectionResumed" in events(kubectl), "an Event of the DynaKube says it")
    pod = manifests.application("again", applications.namespace)
    assert applications.monitored(applications.started(pod))


def events(kubectl: Kubectl) -> str:
    selector = "--field-selector=involvedObject.kind=DynaKube"
    return kubectl("-n", NAMESPACE, "get", "events", selector, "-o", "jsonpath={.items[*].reason}")
