"""The CA of a collector, from a ConfigMap beside the operator to pods of another namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines
from oneagent.operator.reconcilers import node_access
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError, Manifest
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story.administrator import Administrator
from tests.e2e.story.test_opentelemetry import TELEMETRY, Telemetry, build, injection, secret
from tests.e2e.webhook.applications import Pod

_NOTICED_SECONDS: Final = 30
"""The operator announces a change at once; nodes of this ring read it without a random delay."""


@pytest.fixture
def definition_goes(kubectl: Kubectl) -> Iterator[None]:
    """The definition stays when the chart goes."""
    yield
    kubectl("delete", "--ignore-not-found", "crd", "opentelemetryinjections.csi.oneagent.dynatrace.com")


def test_new_pods_get_a_changed_ca_and_changed_headers_within_seconds(
    cluster: Cluster, kubectl: Kubectl, definition_goes: None, user: Administrator, wait_for: WaitFor
) -> None:
    user.installs("opentelemetry.enabled=true")
    telemetry = Telemetry(cluster, wait_for)
    build(Path(Installed(cluster).data.root) / "packages/ca.zip", "ca")
    made = manifests.namespace(TELEMETRY)
    made["metadata"]["labels"]["agents"] = TELEMETRY
    kubectl.apply(made)
    try:
        with pytest.raises(KubectlError, match="Client certificates are not supported"):
            kubectl.apply(trusting(cert_file="tls.crt"))
        with pytest.raises(KubectlError, match=r"name the key of the ConfigMap collector-ca that has the CA"):
            kubectl.apply(trusting(ca_file="tls/ca.crt"))
        secret(kubectl)
        kubectl.apply(trusting())
        assert "the ConfigMap collector-ca does not exist: create it" in telemetry.becomes("Exporter=False")
        first, second = (trustme.CA().cert_pem.bytes().decode().strip() for _ in range(2))
        kubectl.apply(config_map(first))
        telemetry.becomes("Ready=True")
        role = json.loads(kubectl("-n", NAMESPACE, "get", "role", node_access.ROLE, "-o", "json"))
        named = {rule["resources"][0]: rule["resourceNames"] for rule in role["rules"]}
        assert named["configmaps"] == ["collector-ca"]
        assert "headers" in named["secrets"]
        cart = telemetry.starts("cart")
        assert (authority(telemetry, cart), header(telemetry, cart)) == (first, "authorization=Bearer s3cret")

        kubectl.apply(config_map(second))
        wait_for(lambda: authority(telemetry, replaced(telemetry)) == second, "the new CA", _NOTICED_SECONDS)
        kubectl("-n", NAMESPACE, "delete", "secret", "headers")
        kubectl(
            "-n", NAMESPACE, "create", "secret", "generic", "headers", "--from-literal=authorization=Bearer renewed"
        )
        wait_for(
            lambda: header(telemetry, replaced(telemetry)) == "authorization=Bearer renewed",
            "the new header",
            _NOTICED_SECONDS,
        )
        assert (authority(telemetry, cart), header(telemetry, cart)) == (first, "authorization=Bearer s3cret")
    finally:
        kubectl("-n", TELEMETRY, "delete", "pods", "--all")
        kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "otelinj", "--all", "--timeout=30s")
        kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "configmap/collector-ca", "secret/headers")
        kubectl.delete(made, wait=False)


def trusting(**tls: str) -> Manifest:
    exporter: dict[str, Any] = {"endpoint": "https://collector.telemetry:4318", "headersSecret": "headers"}
    return injection("ca", exporter={**exporter, "tls": {"configMapName": "collector-ca", "ca_file": "ca.crt", **tls}})


def config_map(certificate: str) -> Manifest:
    metadata = {"name": "collector-ca", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": certificate}}


def replaced(telemetry: Telemetry) -> Pod:
    """Return a new pod in the place of another one."""
    telemetry.applications.kubectl("delete", "pod", "checkout", "--ignore-not-found", "--grace-period=1")
    return telemetry.starts("checkout")


def authority(telemetry: Telemetry, pod: Pod) -> str:
    return telemetry.applications.read(pod, f"{opentelemetry.INSTALL_PATH}/{opentelemetry.AUTHORITY_FILE}").strip()


def header(telemetry: Telemetry, pod: Pod) -> str:
    text = telemetry.applications.read(pod, f"{opentelemetry.INSTALL_PATH}/{opentelemetry.CONFIG_FILE}")
    return variable_lines.parse(text)["OTEL_EXPORTER_OTLP_HEADERS"]
