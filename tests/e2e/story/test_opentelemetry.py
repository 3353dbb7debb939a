"""Pods with OpenTelemetry's agents beside pods with OneAgent, from `helm install` until all of it is gone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish
from tests.e2e.story.steps import FIRST
from tests.e2e.webhook.applications import Applications, Pod
from tests.fakes import packages
from tests.fakes.tenant import Tenant

TELEMETRY: Final = "telemetry"
_PATH: Final = opentelemetry.INSTALL_PATH
_LIBRARY: Final = f"{_PATH}/{opentelemetry.PRELOAD_LIBRARY}"
_CONDITIONS: Final = "jsonpath={range .status.conditions[*]}{.type}={.status} {.message}{'\\n'}{end}"


def build(path: Path, version: str) -> None:
    """A package whose library can be loaded, and does nothing."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        packages.write(archive, opentelemetry.PRELOAD_LIBRARY, packages.loadable().read_bytes(), 0o100755)
        packages.write(archive, "agent/version", version.encode())


def injection(package: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "telemetry", "namespace": NAMESPACE},
        "spec": {
            "package": f"file:///data/packages/{package}.zip",
            "namespaceSelector": {"matchLabels": {"agents": TELEMETRY}},
            "exporter": {"endpoint": "http://collector.telemetry:4318", "headersSecret": "headers"},
            **spec,
        },
    }


def secret(kubectl: Kubectl) -> None:
    kubectl("-n", NAMESPACE, "create", "secret", "generic", "headers", "--from-literal=authorization=Bearer s3cret")


class Telemetry:
    """A namespace whose pods get OpenTelemetry's agents, and the OpenTelemetryInjection."""

    def __init__(self, cluster: Cluster, wait_for: WaitFor) -> None:
        self._kubectl, self._cluster, self._wait_for = cluster.kubectl, cluster, wait_for
        self.applications = Applications(cluster, TELEMETRY, wait_for)

    def starts(self, name: str) -> Pod:
        return self.applications.started(manifests.application(name, TELEMETRY), within=90)

    def conditions(self) -> str:
        return self._kubectl("-n", NAMESPACE, "get", "otelinj", "telemetry", "-o", _CONDITIONS)

    def becomes(self, condition: str) -> str:
        return self._wait_for(lambda: self.conditions() if condition in self.conditions() else "", condition, 60)

    def has_agents(self, pod: Pod, version: str) -> None:
        """The library is in the first process, and its files say whose pod it is and where telemetry goes."""
        process = self._cluster.node.first_process(pod, "shop")
        assert _LIBRARY in Path(f"/proc/{process}/maps").read_text()
        assert self.applications.read(pod, f"{_PATH}/agent/version") == version
        settings = variable_lines.parse(self.applications.read(pod, f"{_PATH}/{opentelemetry.CONFIG_FILE}"))
        assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.telemetry:4318"
        assert settings["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=Bearer s3cret"
        identity = variable_lines.parse(self.applications.read(pod, f"{_PATH}/agent/conf/container.env"))
        attributes = variable_lines.split(identity["OTEL_RESOURCE_ATTRIBUTES"])
        metadata = pod["metadata"]
        assert attributes["k8s.pod.name"] == identity["OTEL_SERVICE_NAME"] == metadata["name"]
        assert (attributes["k8s.namespace.name"], attributes["k8s.pod.uid"]) == (TELEMETRY, metadata["uid"])
        assert attributes["k8s.container.name"] == "shop"
        assert attributes["k8s.node.name"]
        assert "s3cret" not in json.dumps(pod)


def test_both_kinds_of_agents_in_one_cluster(
    cluster: Cluster, kubectl: Kubectl, definition: None, user: Administrator, shop: ShopNamespace, dynatrace: Tenant,
    publish: Publish, wait_for: WaitFor,
) -> None:  # fmt: skip
    publish(FIRST)
    user.installs("opentelemetry.enabled=true")
    user.monitors(dynatrace.api_url)
    telemetry = Telemetry(cluster, wait_for)
    folder = Path(Installed(cluster).data.root) / "packages"
    build(folder / "one.zip", "one")
    made = manifests.namespace(TELEMETRY)
    made["metadata"]["labels"]["agents"] = TELEMETRY
    kubectl.apply(made)
    try:
        tell_what_is_wrong(kubectl)
        kubectl.apply(injection("one"))
        assert "the Secret headers does not exist" in telemetry.becomes("Exporter=False")
        secret(kubectl)
        telemetry.becomes("Ready=True")
        wait_for(lambda: Installed(cluster).versions() - {FIRST}, "the package is in the store", 60)
        cart = telemetry.starts("cart")
        telemetry.has_agents(cart, "one")
        shop.has_agent(shop.starts("cart"), FIRST)

        build(folder / "two.zip", "two")
        before = Installed(cluster).versions()
        kubectl.apply(injection("two"))
        wait_for(lambda: Installed(cluster).versions() - before, "the new package is in the store", 60)
        telemetry.has_agents(telemetry.starts("checkout"), "two")
        telemetry.has_agents(cart, "one")

        keep_the_first_claim(kubectl, user, telemetry, wait_for)
        kubectl("-n", TELEMETRY, "delete", "pods", "--all")
        kubectl("-n", NAMESPACE, "delete", "otelinj", "telemetry", "--timeout=30s")
        label = "jsonpath={.metadata.labels.dynakube\\.internal\\.dynatrace\\.com/instance}"
        assert kubectl("get", "namespace", TELEMETRY, "-o", label) == ""
        wait_for(lambda: Installed(cluster).versions() == {FIRST}, "its versions have left the store", 60)
        shop.has_agent(shop.starts("gift"), FIRST)
    finally:
        kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "otelinj", "--all", "--timeout=30s")
        kubectl.delete(made, wait=False)


def tell_what_is_wrong(kubectl: Kubectl) -> None:
    """The API server refuses what its schema refuses, and the webhook the rest."""
    with pytest.raises(KubectlError, match="Unsupported value"):
        kubectl.apply(injection("one", languages=["perl"]))
    with pytest.raises(KubectlError, match="found in the OpenTelemetryInjection"):
        kubectl.apply(injection("one", image={"reference": "registry.example/otel:1"}))


def keep_the_first_claim(kubectl: Kubectl, user: Administrator, telemetry: Telemetry, wait_for: WaitFor) -> None:
    """A namespace that a DynaKube's selector covers, too, stays with the kind that has it: labels tell both."""
    kubectl("label", "namespace", SHOP, f"agents={TELEMETRY}")
    assert "(owner: DynaKube shop)" in telemetry.becomes("NamespaceMapping=False")
    kubectl("label", "namespace", SHOP, "agents-")
    telemetry.becomes("NamespaceMapping=True")
