"""Network policies, and the monitors by which Prometheus reads each port with metrics."""

from __future__ import annotations

from typing import Final

import pytest

from tests.unit.chart.rendering import container, needs_helm, one, rendered

pytestmark = needs_helm

_NODE: Final = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}


def test_those_who_may_read_metrics_are_named_and_the_operator_is_one_of_them() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    manifests = rendered({"networkPolicy": {"metricsFrom": [monitoring]}})
    (rule,) = one(manifests, "NetworkPolicy", "oneagent-csi-driver")["spec"]["ingress"]
    assert rule["from"][0] == monitoring
    assert rule["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    requests, metrics = one(manifests, "NetworkPolicy", "oneagent-webhook")["spec"]["ingress"]
    assert "from" not in requests
    assert metrics["from"]


def test_metrics_are_read_from_namespaces_that_are_labelled_for_monitoring_by_default() -> None:
    for name in ("operator", "webhook", "csi-driver"):
        *_, metrics = one(rendered({}), "NetworkPolicy", f"oneagent-{name}")["spec"]["ingress"]
        labels = [peer["namespaceSelector"]["matchLabels"] for peer in metrics["from"] if "namespaceSelector" in peer]
        assert labels == [{"metrics": "enabled"}, {"network.openshift.io/policy-group": "monitoring"}]


def test_the_webhook_can_be_left_to_the_addresses_of_api_servers() -> None:
    manifests = rendered({"networkPolicy": {"apiServers": ["10.0.0.0/28", "fd00::/64"]}})
    requests, _ = one(manifests, "NetworkPolicy", "oneagent-webhook")["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in requests["from"][:-1]] == ["10.0.0.0/28", "fd00::/64"]
    # It looks which certificate is served.
    assert requests["from"][-1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_every_port_with_metrics_is_read_whichever_kind_of_monitor_is_chosen(kind: str) -> None:
    manifests = rendered({f"{kind[0].lower()}{kind[1:]}": {"enabled": True, "interval": "7s", "labels": {"a": "b"}}})
    pods = [m["spec"]["template"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
    for pod in pods:
        labels = pod["metadata"]["labels"].items()
        monitors = (m for m in manifests if m["kind"] == kind)
        (monitor,) = (m for m in monitors if m["spec"]["selector"]["matchLabels"].items() <= labels)
        assert monitor["metadata"]["labels"]["a"] == "b"
        endpoints = monitor["spec"]["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
        assert {endpoint["interval"] for endpoint in endpoints} == {"7s"}
        assert all(_NODE in endpoint["relabelings"] for endpoint in endpoints), "panels and legends name nodes"
        served = {p["name"] for each in pod["spec"]["containers"] for p in each.get("ports", ())}
        assert {endpoint["port"] for endpoint in endpoints} == served - {"https", "packages"}


def test_monitors_of_services_find_their_services_and_give_jobs_the_names_that_alerts_know() -> None:
    manifests = rendered({"serviceMonitor": {"enabled": True}}, "--namespace=elsewhere")
    monitors = [manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        name, wanted = monitor["metadata"]["name"], monitor["spec"]["selector"]["matchLabels"]
        services = [m for m in manifests if m["kind"] == "Service" and m["spec"].get("clusterIP") == "None"]
        (service,) = (m for m in services if wanted.items() <= m["metadata"]["labels"].items())
        assert service["spec"]["selector"] == wanted
        assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
        pods = [m["spec"]["template"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
        (pod,) = (pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items())
        ports = {p["name"]: p["containerPort"] for each in pod["spec"]["containers"] for p in each.get("ports", ())}
        assert all(ports[port["name"]] == port["port"] for port in service["spec"]["ports"])
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": f"elsewhere/{name}"}, _NODE]


def test_upstreams_registrar_has_no_metrics_to_be_read() -> None:
    image = "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.14.0"
    manifests = rendered({"csidriver": {"registrar": {"image": image}}, "podMonitor": {"enabled": True}})
    assert "ports" not in container(manifests, "registrar")
    endpoints = one(manifests, "PodMonitor", "oneagent-csi-driver")["spec"]["podMetricsEndpoints"]
    assert [endpoint["port"] for endpoint in endpoints] == ["metrics", "prov-metrics", "healthz"]
    (rule,) = one(manifests, "NetworkPolicy", "oneagent-csi-driver")["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [8080, 8090, 9808]
