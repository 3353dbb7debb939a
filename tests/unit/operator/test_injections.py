"""OpenTelemetryInjections in the operator: the same worker, with the conditions that they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme
from prometheus_client import CollectorRegistry

from oneagent.common.agents.opentelemetry.injection import normalize_stored
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.identifiers import DRIVER_NAME
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.certificates.controller import Metrics
from oneagent.operator.controller import Controller, ControllerSettings
from oneagent.operator.reconcilers import node_access
from oneagent.operator.watches import Watches
from tests.fakes.object_api import Objects

CERTIFICATE = trustme.CA().cert_pem.bytes().decode()
KEY = ("OpenTelemetryInjection", "dynatrace", "shop")


def injection(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop", "namespace": "dynatrace", "generation": 1, "creationTimestamp": "2026-01-01"},
        "spec": {
            "package": "file:///data/otel.zip",
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
            "exporter": {"endpoint": "http://collector:4318", "headersSecret": "headers"},
            **spec,
        },
    }


class Cluster(Objects):
    """Its status subresource changes the status only."""

    async def apply(self, resource: api.Resource, obj: Any, *, subresource: str = "") -> api.Object:
        if subresource != "status":
            return await super().apply(resource, obj)
        self.calls.append(("apply", f"{resource.kind}/status", obj["metadata"]["name"]))
        stored = self.stored[resource.kind, obj["metadata"]["namespace"], obj["metadata"]["name"]]
        stored["status"] = obj["status"]
        return stored

    async def create(self, resource: api.Resource, obj: Any, namespace: str = "") -> api.Object:
        return self.put(resource.kind, obj)

    async def post(self, path: str, body: Any) -> api.Object:
        return dict(body)

    apply_path = post

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        found = self.stored[KEY].get("status", {}).get("conditions", [])
        return {condition["type"]: condition for condition in found}


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster()
    found.put("Namespace", {"metadata": {"name": "kube-system"}})
    found.put("Namespace", {"metadata": {"name": "web", "labels": {"team": "shop"}}})
    found.put("Role", {"metadata": {"name": node_access.ROLE, "namespace": "dynatrace"}})
    found.put("CSIDriver", {"metadata": {"name": DRIVER_NAME}, "spec": {"volumeLifecycleModes": ["Ephemeral"]}})
    return found


def until(cluster: Cluster, condition: Callable[[], object]) -> None:
    """Run the controller until the condition holds."""

    async def run() -> None:
        settings = ControllerSettings("dynatrace", "v1beta6", "", "1", None, opentelemetry=True)
        controller = Controller(cast("api.Api", cluster), settings, Metrics(CollectorRegistry()))
        working = asyncio.create_task(controller.run())
        try:
            async with asyncio.timeout(20):
                while not condition():
                    assert not working.done(), working.exception()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(cluster.stored) from None
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    asyncio.run(run())


def test_it_gets_its_conditions_and_its_namespaces(cluster: Cluster) -> None:
    cluster.put("OpenTelemetryInjection", injection())
    cluster.put("Secret", {"metadata": {"name": "headers", "namespace": "dynatrace"}, "data": {"a": "Yg=="}})
    until(cluster, lambda: cluster.conditions.get("Exporter", {}).get("status") == "True")
    namespace = cluster.stored["Namespace", "", "web"]["metadata"]["labels"]
    assert namespace[namespace_mapping.LABEL] == "otelinj.shop"
    assert set(cluster.conditions) == {
        *("Spec", "NodeAccess", "Exporter", "CodeModulesVersion", "AgentRollout", "NamespaceMapping"),
        *("CodeModulesInjection", "Ready"),
    }
    assert cluster.conditions["Exporter"]["message"] == "agents send to http://collector:4318"
    assert cluster.conditions["CodeModulesInjection"]["reason"] == "InjectedByCSI"
    (rule,) = cluster.stored["Role", "dynatrace", node_access.ROLE]["rules"]
    assert rule["resourceNames"] == ["headers"]
    assert "mode" not in cluster.stored[KEY]["status"]
    assert cluster.stored[KEY]["metadata"]["finalizers"] == ["dynatrace.com/oneagent-operator"]


def test_a_missing_secret_is_a_condition(cluster: Cluster) -> None:
    cluster.put("OpenTelemetryInjection", injection())
    until(cluster, lambda: cluster.conditions.get("Exporter", {}).get("status") == "False")
    assert "the Secret headers does not exist" in cluster.conditions["Exporter"]["message"]
    assert cluster.conditions["Ready"]["status"] == "False"


TLS: dict[str, str] = {"configMapName": "ca", "ca_file": "ca.crt"}
EXPORTER: dict[str, Any] = {"endpoint": "https://collector:4318", "headersSecret": "headers", "tls": TLS}


class TestTheExportersObjects:
    def put(self, cluster: Cluster, header: str = "Yg==", certificate: str = "") -> None:
        found = certificate or trustme.CA().cert_pem.bytes().decode()
        cluster.put("Secret", {"metadata": {"name": "headers", "namespace": "dynatrace"}, "data": {"a": header}})
        metadata = {"name": "ca", "namespace": "dynatrace"}
        cluster.put("ConfigMap", {"kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": found}})

    def digest(self, cluster: Cluster) -> str:
        return str(cluster.stored[KEY].get("status", {}).get("codeModules", {}).get("exporterInputs", ""))

    def test_nodes_may_read_them_and_the_condition_says_whom_agents_trust(self, cluster: Cluster) -> None:
        self.put(cluster)
        cluster.put("OpenTelemetryInjection", injection(exporter=EXPORTER))
        until(cluster, lambda: cluster.conditions.get("Exporter", {}).get("status") == "True")
        expected = "agents send to https://collector:4318, and trust the CA of the ConfigMap ca"
        assert cluster.conditions["Exporter"]["message"] == expected
        rules = {rule["resources"][0]: rule for rule in cluster.stored["Role", "dynatrace", node_access.ROLE]["rules"]}
        assert rules["configmaps"]["resourceNames"] == ["ca"]
        assert rules["secrets"]["resourceNames"] == ["headers"]
        assert all(rule["verbs"] == ["get"] for rule in rules.values())

    @pytest.mark.parametrize("changed", [{"header": "Yw=="}, {"certificate": trustme.CA().cert_pem.bytes().decode()}])
    def test_a_change_of_one_reaches_nodes_by_the_status(self, cluster: Cluster, changed: dict[str, str]) -> None:
        self.put(cluster, certificate=CERTIFICATE)
        cluster.put("OpenTelemetryInjection", injection(exporter=EXPORTER))
        until(cluster, lambda: self.digest(cluster))
        before = self.digest(cluster)
        until(cluster, lambda: cluster.conditions["Ready"]["status"] == "True")
        assert self.digest(cluster) == before
        self.put(cluster, **{"certificate": CERTIFICATE, **changed})
        until(cluster, lambda: self.digest(cluster) != before)

    def test_a_missing_key_is_a_condition_and_no_news_for_nodes(self, cluster: Cluster) -> None:
        self.put(cluster)
        tls = {**TLS, "ca_file": "other.crt"}
        cluster.put("OpenTelemetryInjection", injection(exporter={**EXPORTER, "tls": tls}))
        until(cluster, lambda: cluster.conditions.get("Exporter", {}).get("status") == "False")
        condition = cluster.conditions["Exporter"]
        assert condition["reason"] == "ExporterUnusable"
        assert "spec.exporter.tls.configMapName: the ConfigMap ca has no key other.crt: put PEM" in condition["message"]
        assert self.digest(cluster) == ""


def test_without_the_driver_no_pod_gets_an_agent(cluster: Cluster) -> None:
    cluster.remove("CSIDriver", DRIVER_NAME)
    cluster.put("OpenTelemetryInjection", injection(exporter={}))
    until(cluster, lambda: "CodeModulesInjection" in cluster.conditions)
    assert cluster.conditions["CodeModulesInjection"]["reason"] == "DriverNotInstalled"


def test_one_that_cannot_be_used_says_why_and_keeps_its_namespaces(cluster: Cluster) -> None:
    cluster.stored["Namespace", "", "web"]["metadata"]["labels"][namespace_mapping.LABEL] = "otelinj.shop"
    cluster.put("OpenTelemetryInjection", injection(languages=["perl"]))
    until(cluster, lambda: "Spec" in cluster.conditions)
    assert cluster.conditions["Spec"]["message"].startswith("spec.languages is 'perl': must be of java")
    labels = cluster.stored["Namespace", "", "web"]["metadata"]["labels"]
    assert labels[namespace_mapping.LABEL] == "otelinj.shop"


def test_a_namespace_of_a_dynakube_stays_with_it(cluster: Cluster) -> None:
    """Two claims are a condition, and the first keeps it."""
    cluster.stored["Namespace", "", "web"]["metadata"]["labels"][namespace_mapping.LABEL] = "prod"
    mode = {"codeModulesImage": "file:///a.zip", "namespaceSelector": {"matchLabels": {"team": "shop"}}}
    cluster.put(
        "DynaKube",
        {
            "apiVersion": "dynatrace.com/v1beta6",
            "kind": "DynaKube",
            "metadata": {"name": "prod", "namespace": "dynatrace", "creationTimestamp": "2026-02-01"},
            "spec": {"oneAgent": {"applicationMonitoring": mode}},
        },
    )
    cluster.put("OpenTelemetryInjection", injection(exporter={}))
    until(cluster, lambda: cluster.conditions.get("NamespaceMapping", {}).get("status") == "False")
    assert "web (owner: DynaKube prod)" in cluster.conditions["NamespaceMapping"]["message"]


def test_another_fault_is_a_change_and_a_new_status_is_none() -> None:
    changed = list[str]()
    listener = SimpleNamespace(dynakube_changed=changed.append)
    watches = Watches(cast("Any", None), "dynatrace", api.dynakubes("v1beta6"), Cache(), cast("Any", listener))
    first = injection(languages=["perl"])
    for obj in (first, first | {"status": {"phase": "Error"}}, injection(languages=["cobol"]), injection()):
        watches.on_injection("shop", normalize_stored(obj))
    assert changed == ["otelinj.shop"] * 3


def test_a_deleted_one_releases_its_namespaces(cluster: Cluster) -> None:
    obj = injection(exporter={})
    obj["metadata"] |= {"deletionTimestamp": "2026-03-01", "finalizers": ["dynatrace.com/oneagent-operator", "other"]}
    cluster.stored["Namespace", "", "web"]["metadata"]["labels"][namespace_mapping.LABEL] = "otelinj.shop"
    cluster.put("OpenTelemetryInjection", obj)
    until(cluster, lambda: cluster.stored[KEY]["metadata"]["finalizers"] == ["other"])
    assert namespace_mapping.LABEL not in cluster.stored["Namespace", "", "web"]["metadata"]["labels"]
