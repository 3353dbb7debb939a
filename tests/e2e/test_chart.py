"""The chart on a real API server: what it takes of it, and installing, upgrading and uninstalling by Helm.

The node driver, which all tests share, is left out where something is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.operator import api
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.helm import IMAGE, Helm
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import documented_rules
from tests.fakes.packages import VERSION

_DRY: Final = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f")
_FOREIGN: Final = ("Certificate", "Issuer", "PodMonitor", "ServiceMonitor")
"""Of operators that are not here."""
_SPREAD: Final = {"maxSkew": 1, "topologyKey": "example.com/rack", "whenUnsatisfiable": "DoNotSchedule"}
_CONTAINER: Final = {
    "securityContext": {"runAsGroup": 7},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
_MORE: Final = {
    "serviceAccount": {"name": "another", "annotations": {"example.com/role": "agent"}},
    "podSecurityContext": {"fsGroup": 7},
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
}
_VALUES: Final = {"image": IMAGE, "csidriver": {"enabled": False}}


@pytest.fixture
def helm(cluster: Cluster, kubectl: Kubectl) -> Iterator[Helm]:
    """With operator and webhook. What is there of them, and the definition of DynaKubes, is taken over."""
    installation.define(kubectl)
    helm = Helm(cluster.control_plane.admin)
    chart = str(generate.CHART)
    helm("install", "shop", chart, "--take-ownership", "--wait", "--timeout=60s", values=_VALUES)
    yield helm
    helm("uninstall", "shop", "--ignore-not-found", "--wait")
    # The definition stays, and other tests have CAs of their own.
    trust = [{"op": "remove", "path": "/spec/conversion/webhook/clientConfig/caBundle"}]
    kubectl("patch", "crd", "dynakubes.dynatrace.com", "--type=json", "-p", json.dumps(trust))


def bundles(kubectl: Kubectl) -> list[str]:
    """With what the API server verifies the webhook, wherever it is told."""
    hooks = "jsonpath={.webhooks[*].clientConfig.caBundle}"
    conversion = "jsonpath={.spec.conversion.webhook.clientConfig.caBundle}"
    return [
        kubectl("get", "mutatingwebhookconfiguration", "oneagent-webhook", "-o", hooks),
        kubectl("get", "validatingwebhookconfiguration", "oneagent-webhook", "-o", hooks),
        kubectl("get", "crd", "dynakubes.dynatrace.com", "-o", conversion),
    ]


def owned(fields: dict[str, Any], path: str = "") -> Iterator[str]:
    """Names of the fields in a `fieldsV1`: `webhooks[].clientConfig.caBundle`."""
    for key, inner in fields.items():
        if key == ".":
            continue
        name = f"{path}.{key[2:]}".lstrip(".") if key.startswith("f:") else f"{path}[]"
        if inner:
            yield from owned(inner, name)
        else:
            yield name


@pytest.mark.parametrize("name", ["kubernetes", "openshift"])
def test_the_api_server_takes_every_object_of_the_plain_manifests(name: str, kubectl: Kubectl) -> None:
    installation.define(kubectl)
    path = generate.CRD.with_name(f"{name}.yaml")
    expected = [manifest["kind"] for manifest in yaml.load_all(path.read_text(), yaml.CSafeLoader)]
    assert len(kubectl(*_DRY, str(path)).splitlines()) == len(expected)


def test_the_api_server_takes_what_the_chart_is_with_everything_turned_over(kubectl: Kubectl) -> None:
    installation.define(kubectl)
    values = {
        "image": {"digest": f"sha256:{'a' * 64}", "pullSecrets": [{"name": "registry"}]},
        "crd": {"install": False},
        "commonLabels": {"team": "platform"},
        "commonAnnotations": {"example.com/owner": "platform"},
        "csidriver": {
            **_MORE,
            "resourceQuota": True,
            "updateStrategy": {"type": "OnDelete"},
            "server": {"flags": {"keep-logs": True}, "livenessProbe": {"timeoutSeconds": 9}},
            "provisioner": _CONTAINER,
        },
        "operator": {**_MORE, **_CONTAINER, "replicas": 2, "topologySpreadConstraints": [_SPREAD]},
        "webhook": {
            **_MORE,
            **_CONTAINER,
            "replicas": 3,
            "affinity": {"podAntiAffinity": {}},
            "hostNetwork": True,
            "port": 10260,
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchExpressions": [{"key": "stage", "operator": "Exists"}]},
            "readinessProbe": {"failureThreshold": 2},
            "podDisruptionBudget": {"minAvailable": "50%"},
        },
        "startupTaint": "example.com/agent:NoSchedule",
        "packages": {"mirror": True},
        "priorityClass": {"create": True},
        "serviceMonitor": {"enabled": True},
        "networkPolicy": {"metricsFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    }
    for more in ({}, {"certificates": {"issuer": "cert-manager"}, "packages": {"mirror": False}}):
        text = generate.template(values=json.dumps({**values, **more}))
        ours = [
            manifest
            for manifest in yaml.load_all(text, yaml.CSafeLoader)
            if manifest and manifest["kind"] not in _FOREIGN
        ]
        assert kubectl(*_DRY, "-", stdin=yaml.safe_dump_all(ours)).count("(server dry run)") == len(ours)


def test_a_dynakube_is_taken_as_soon_as_the_install_has_returned(helm: Helm, kubectl: Kubectl) -> None:
    kube, _ = manifests.dynakube("first", "https://abc12345.live.dynatrace.com/api", VERSION)
    for version in ("v1beta6", "v1beta5", "v1beta3"):
        written = yaml.safe_dump({**kube, "apiVersion": f"dynatrace.com/{version}"})
        # Once, without a second try: the call of the webhook is refused for as long as its Service is not programmed.
        kubectl("create", "--dry-run=server", "-f", "-", stdin=written)


def test_of_two_operators_one_leads_and_the_other_takes_over(helm: Helm, kubectl: Kubectl, wait_for: WaitFor) -> None:
    values = {**_VALUES, "operator": {"replicas": 2}}
    helm("upgrade", "shop", str(generate.CHART), "--wait", "--timeout=60s", values=values)
    lease = ("-n", NAMESPACE, "get", "lease", "oneagent-operator", "-o", "jsonpath={.spec.holderIdentity}")
    wait_for(lambda: kubectl(*lease), "an operator leads")
    first = kubectl(*lease)  # The name of its pod.
    kubectl("-n", NAMESPACE, "delete", "pod", first)
    wait_for(lambda: kubectl(*lease) not in ("", first), "the other operator leads", within=40)
    assert kubectl("-n", NAMESPACE, "get", "pdb", "oneagent-operator", "-o", "jsonpath={.spec.minAvailable}") == "1"


def test_a_tool_that_applies_the_chart_again_finds_no_drift_and_takes_nothing_from_the_operator(
    helm: Helm, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    """Argo CD and Flux compare by a server-side dry run, and correct by a server-side apply."""
    wait_for(lambda: all(bundles(kubectl)), "the API server trusts the webhook", within=60)
    before, manifest = bundles(kubectl), helm("get", "manifest", "shop")
    apply = ("--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-")
    assert kubectl("diff", *apply, stdin=manifest) == ""
    try:
        kubectl("apply", *apply, stdin=manifest)
        assert bundles(kubectl) == before
        check_fields_of_the_operator(kubectl, manifest)
    finally:
        give_up(kubectl, "gitops")


def give_up(kubectl: Kubectl, manager: str) -> None:
    """Remove a tool from the owners of the CRD, which stays after the chart: other tests change those fields."""
    names = ("crd", "dynakubes.dynatrace.com")
    managers = kubectl.json("get", "--show-managed-fields", *names)["metadata"]["managedFields"]
    paths = [f"/metadata/managedFields/{number}" for number, one in enumerate(managers) if one["manager"] == manager]
    removed = [{"op": "remove", "path": path} for path in paths]
    kubectl("patch", *names, "--type=json", "-p", json.dumps(removed))


def check_fields_of_the_operator(kubectl: Kubectl, manifest: str) -> None:
    """It owns what the page on GitOps lists."""
    written = {
        (obj["kind"], obj["metadata"]["name"], field)
        for obj in json.loads(kubectl("get", "--show-managed-fields", "-o", "json", "-f", "-", stdin=manifest))["items"]
        for entry in obj["metadata"]["managedFields"]
        if entry["manager"] == api.FIELD_MANAGER and not entry.get("subresource")
        for field in owned(entry["fieldsV1"])
    }
    of_the_driver = {rule for rule in documented_rules.table() if rule[0] in ("Role", "ConfigMap")}
    assert written == documented_rules.table() - of_the_driver


def test_an_upgrade_keeps_what_the_operator_wrote_and_an_uninstall_keeps_dynakubes_only(
    helm: Helm, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    wait_for(lambda: all(bundles(kubectl)), "the API server trusts the webhook", within=60)
    before = bundles(kubectl)
    values = {**_VALUES, "webhook": {"timeoutSeconds": 7}, "networkPolicy": {"enabled": False}}
    helm("upgrade", "shop", str(generate.CHART), "--wait", "--timeout=60s", values=values)
    timeouts = "jsonpath={.webhooks[*].timeoutSeconds}"
    assert kubectl("get", "mutatingwebhookconfiguration", "oneagent-webhook", "-o", timeouts) == "7 7"
    assert bundles(kubectl) == before

    assert "pod-security" not in helm("get", "notes", "shop")
    manifest = helm("get", "manifest", "shop")
    helm("uninstall", "shop", "--wait")
    left = kubectl("get", "--ignore-not-found", "-o", "name", "-f", "-", stdin=manifest)
    assert left.split() == ["customresourcedefinition.apiextensions.k8s.io/dynakubes.dynatrace.com"]
