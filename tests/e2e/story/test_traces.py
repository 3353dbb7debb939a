"""Programs in Python, Node.js and Java with OpenTelemetry's agents: one trace over all of them, in a collector.

Everything is real: the agents, as the image that `deploy/agents/opentelemetry` makes of them, the collector, and the
programs, whose images and manifests say nothing of telemetry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.csi_driver.store import store_key
from tests.cluster import telemetry_images
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.demo import collector
from tests.demo.collector import Span
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import collector_pod
from tests.e2e.story.administrator import Administrator
from tests.e2e.story.collector_pod import CollectorPod
from tests.e2e.story.services import CONTAINER, LANGUAGES, Services
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes import images
from tests.fakes import registry as registries
from tests.fakes.images import Entry
from tests.fakes.registry import Registry

INJECTION: Final = "orders"
ORDERS: Final = "orders"
"""The namespace of the programs"""
PATH: Final = "team/opentelemetry-agents"
_VERSION: Final = "agent/version"

pytestmark = pytest.mark.skipif(bool(telemetry_images.why_not()), reason=telemetry_images.why_not() or "all is there")


@pytest.fixture
def plain_registry(tmp_path: Path) -> Iterator[Registry]:
    if reason := registries.missing(registries.PROGRAM):
        pytest.skip(reason)
    with Registry(tmp_path / "agents", address=Node.address) as found:
        yield found


@pytest.fixture
def receiver(cluster: Cluster, wait_for: WaitFor) -> Iterator[CollectorPod]:
    for image in (telemetry_images.SERVICES, telemetry_images.COLLECTOR):
        cluster.node.load_image(telemetry_images.archive(image))
    found = CollectorPod(cluster, wait_for)
    found.start()
    yield found
    found.remove()


@pytest.fixture
def programs(cluster: Cluster, kubectl: Kubectl) -> Iterator[Services]:
    made = manifests.namespace(ORDERS)
    made["metadata"]["labels"]["team"] = ORDERS
    kubectl.apply(made)
    found = Services(cluster, ORDERS)
    yield found
    found.end_all()
    kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "otelinj", "--all", "--timeout=30s")
    kubectl.delete(made, wait=False)


class Agents:
    """Their package in a registry, a tag for each version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._layer = images.of_zip(telemetry_images.PACKAGE, prefix="")

    def push(self, tag: str) -> str:
        """Push another version; return it as the store names it."""
        marker = images.tar(Entry(_VERSION, tag.encode()))
        image = images.image(self._layer, marker, architecture=images.HERE)
        return store_key.of_image(self._registry.push(PATH, image, tag))

    def injection(self, tag: str) -> dict[str, Any]:
        return {
            "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
            "kind": "OpenTelemetryInjection",
            "metadata": {"name": INJECTION, "namespace": NAMESPACE},
            "spec": {
                "image": {"reference": f"{self._registry.host}/{PATH}:{tag}"},
                "namespaceSelector": {"matchLabels": {"team": ORDERS}},
                "exporter": {
                    "endpoint": f"http://{collector_pod.HOST}:{collector_pod.PORT}",
                    "headersSecret": "collector",
                },
                "resourceAttributes": {"deployment.environment.name": "test"},
                # Agents wait five seconds for more to send.
                "env": [{"name": "OTEL_BSP_SCHEDULE_DELAY", "value": "200"}],
            },
        }


def test_one_trace_over_java_node_and_python(
    cluster: Cluster, kubectl: Kubectl, definition: None, user: Administrator, plain_registry: Registry,
    receiver: CollectorPod, programs: Services, wait_for: WaitFor, tmp_path: Path,
) -> None:  # fmt: skip
    user.installs("opentelemetry.enabled=true", f"registries.plainHttp[0]={plain_registry.host}")
    agents, plugin = Agents(plain_registry), Plugin(cluster, tmp_path)
    first = agents.push("1")
    header = f"--from-literal=authorization=Bearer {collector_pod.TOKEN}"
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "collector", header)
    kubectl.apply(agents.injection("1"))
    wait_for(lambda: first in Installed(cluster).versions(), "the agents are in the store", 60)
    programs.start({collector_pod.HOST: receiver.address})
    assert receiver.refuses({})
    assert not receiver.refuses({"Authorization": f"Bearer {collector_pod.TOKEN}"})
    check_trace(programs, receiver, wait_for)
    tell_of_the_injection(plugin, kubectl, agents, programs, wait_for)

    receiver.go_away()
    second = agents.push("2")
    kubectl.apply(agents.injection("2"))
    wait_for(lambda: second in Installed(cluster).versions(), "the new agents are in the store", 60)
    programs.restart("shop", "stock")
    programs.start_another("gift", "nodejs")
    wait_for(programs.answer, "without a collector they answer as before", 10)
    for name, version in {"shop": "2", "cart": "1", "stock": "2", "gift": "2"}.items():
        assert read(kubectl, programs, name, _VERSION) == version, name

    receiver.come_back()
    check_trace(programs, receiver, wait_for)
    programs.end("cart")
    wait_for(lambda: Installed(cluster).versions() == {second}, "the old version has left the store", 60)


def check_trace(programs: Services, receiver: CollectorPod, wait_for: WaitFor) -> None:
    """A request to the first program is one trace over all, whose resources are its pods."""
    pods = {name: programs.pod(name) for name in LANGUAGES}
    names = {pod["metadata"]["name"] for pod in pods.values()}
    wait_for(programs.answer, "all of them take part in an answer", 10)

    def complete() -> list[tuple[str, Span]]:
        for root in collector.tree(receiver.spans()):
            found = [span for _, span in root.walk() if span.kind in ("server", "client")]
            if len(found) == 2 * len(LANGUAGES) - 1 and {_pod(span) for span in found} == names:
                return [(span.resource["service.name"], span) for span in found]
        return []

    found = wait_for(complete, f"a trace over {', '.join(LANGUAGES)}", 30)
    first, second, third = LANGUAGES
    expected = [(first, "server"), (first, "client"), (second, "server"), (second, "client"), (third, "server")]
    assert [(name, span.kind) for name, span in found] == expected
    assert len({span.trace for _, span in found}) == 1
    for name, span in found:
        metadata = pods[name]["metadata"]
        expected_resource = {
            "k8s.pod.name": metadata["name"],
            "k8s.pod.uid": metadata["uid"],
            "k8s.namespace.name": ORDERS,
            "k8s.container.name": CONTAINER,
            "k8s.deployment.name": name,
            "k8s.node.name": Node.name,
            "telemetry.sdk.language": LANGUAGES[name],
            "deployment.environment.name": "test",
        }
        assert {key: span.resource.get(key) for key in expected_resource} == expected_resource
        assert collector_pod.TOKEN not in json.dumps(pods[name])


def tell_of_the_injection(
    plugin: Plugin, kubectl: Kubectl, agents: Agents, programs: Services, wait_for: WaitFor
) -> None:
    """The commands of an administrator name it, and what is wrong with it."""
    named = f"OpenTelemetryInjection {INJECTION}"
    wait_for(lambda: not plugin.findings(), f"nothing is found, not {plugin.findings()}", 30, 2)
    for service in LANGUAGES:
        why = plugin("why", f"{ORDERS}/{programs.pod(service)['metadata']['name']}")
        assert why.returncode == 0, why.stdout
        assert named in " ".join(why.stdout.split())
    (row,) = plugin.json("status")["dynakubes"]
    assert (row["name"], row["ready"]) == (f"{opentelemetry.PROFILE.name_prefix}{INJECTION}", True)
    wrong = agents.injection("1")
    wrong["spec"]["exporter"]["headersSecret"] = "misspelt"
    kubectl.apply(wrong)

    def doctor() -> str:
        return " ".join(plugin("doctor").stdout.split())

    try:
        wait_for(
            lambda: f"{named}: Exporter: spec.exporter.headersSecret: the Secret misspelt" in doctor(),
            "doctor finds it",
            30,
            1,
        )
        assert not plugin.json("status")["dynakubes"][0]["ready"]
    finally:
        kubectl.apply(agents.injection("1"))


def read(kubectl: Kubectl, programs: Services, name: str, path: str) -> str:
    pod = programs.pod(name)["metadata"]["name"]
    return kubectl("-n", ORDERS, "exec", pod, "-c", CONTAINER, "--", "cat", f"{opentelemetry.INSTALL_PATH}/{path}")


def _pod(span: Span) -> str:
    return span.resource.get("k8s.pod.name", "")
