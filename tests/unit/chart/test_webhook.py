"""The webhook's addresses, failure policy and certificates."""

from __future__ import annotations

from oneagent.operator import main as operator
from oneagent.webhook import main as webhook
from tests.unit.chart.rendering import ISSUED, container, names, needs_helm, one, rendered, workload

pytestmark = needs_helm


def test_the_webhook_can_listen_at_its_nodes_addresses() -> None:
    manifests = rendered({"webhook": {"hostNetwork": True, "port": 10250, "metricsPort": 9443}})
    spec = workload(manifests, "webhook")
    pod = spec["template"]["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    # A new pod would always wait for a node whose port is free.
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    config = webhook.parse(container(manifests, "webhook")["args"])
    assert (config.address, config.metrics_address) == (":10250", ":9443")
    ports = {port["name"]: port["containerPort"] for port in container(manifests, "webhook")["ports"]}
    assert ports == {"https": 10250, "metrics": 9443}
    (port,) = one(manifests, "Service", "oneagent-webhook")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (443, "https")
    rules = one(manifests, "NetworkPolicy", "oneagent-webhook")["spec"]["ingress"]
    assert [each["port"] for rule in rules for each in rule["ports"]] == [10250, 9443]


def test_pods_can_be_refused_while_the_webhook_is_away_and_namespaces_left_out() -> None:
    selector = {
        "matchLabels": {"stage": "production"},
        "matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["core"]}],
    }
    manifests = rendered({"webhook": {"failurePolicy": "Fail", "namespaceSelector": selector}})
    pods, namespaces = one(manifests, "MutatingWebhookConfiguration")["webhooks"]
    (default, _) = one(rendered(), "MutatingWebhookConfiguration")["webhooks"]
    assert (pods["failurePolicy"], namespaces["failurePolicy"]) == ("Fail", "Ignore")
    assert pods["namespaceSelector"]["matchLabels"] == {"stage": "production"}
    own = default["namespaceSelector"]["matchExpressions"]
    assert pods["namespaceSelector"]["matchExpressions"] == [*own, *selector["matchExpressions"]]


def test_cert_manager_makes_the_webhooks_certificate_and_no_packages_are_served() -> None:
    manifests = rendered(ISSUED)
    certificate = one(manifests, "Certificate", "oneagent-webhook")
    assert certificate["spec"]["secretName"] == "oneagent-webhook-certs"
    assert ("Issuer", certificate["spec"]["issuerRef"]["name"]) in names(manifests)
    config = operator.parse(container(manifests, "operator")["args"])
    assert (config.certificates, config.package_address) == ("cert-manager", "")
    assert ("Service", "oneagent-operator") not in names(manifests)


def test_an_issuer_that_is_there_is_used() -> None:
    reference = {"name": "company", "kind": "ClusterIssuer"}
    manifests = rendered({"certificates": {"issuer": "cert-manager", "certManager": {"issuerRef": reference}}})
    assert one(manifests, "Certificate")["spec"]["issuerRef"] == {"group": "cert-manager.io", **reference}
    assert not [name for kind, name in names(manifests) if kind == "Issuer"]


def test_the_webhook_can_ask_api_servers_for_certificates() -> None:
    manifests = rendered({"webhook": {"clientCA": "api-servers"}})
    webhook = container(manifests, "webhook")
    (mount,) = webhook["volumeMounts"]
    (volume,) = one(manifests, "Deployment", "oneagent-webhook")["spec"]["template"]["spec"]["volumes"]
    assert (volume["name"], volume["configMap"]["name"]) == (mount["name"], "api-servers")
    (item,) = volume["configMap"]["items"]
    assert f"--client-ca={mount['mountPath']}/{item['path']}" in webhook["args"]
