"""The chart on a real API server: what it takes of it, and installing, upgrading and uninstalling by Helm.

The node driver, which all tests share, is left out where something is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest
import yaml
from deploy import generate

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.helm import IMAGE, Helm
from tests.fakes.packages import VERSION

_DRY: Final = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f")
_FOREIGN: Final = ("Certificate", "Issuer", "PodMonitor", "ServiceMonitor")
"""Of operators that are not here."""
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
        "csidriver": {"resourceQuota": True, "server": {"flags": {"keep-logs": True}}},
        "webhook": {"replicas": 1, "affinity": {"podAntiAffinity": {}}},
        "startupTaint": "example.com/agent:NoSchedule",
        "packages": {"mirror": True},
        "priorityClass": {"create": True},
        "serviceMonitors": {"enabled": True},
        "networkPolicies": {"metricsFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    }
    for more in ({}, {"certificates": {"issuer": "cert-manager"}, "packages": {"mirror": False}}):
        text = generate.template(values=json.dumps({**values, **more}))
        ours = [manifest for manifest in yaml.safe_load_all(text) if manifest and manifest["kind"] not in _FOREIGN]
        assert kubectl(*_DRY, "-", stdin=yaml.safe_dump_all(ours)).count("(server dry run)") == len(ours)


def test_a_dynakube_is_taken_as_soon_as_the_install_has_returned(helm: Helm, kubectl: Kubectl) -> None:
    kube, _ = manifests.dynakube("first", "https://abc12345.live.dynatrace.com/api", VERSION)
    for version in ("v1beta6", "v1beta5", "v1beta3"):
        written = yaml.safe_dump({**kube, "apiVersion": f"dynatrace.com/{version}"})
        # Once, without a second try: the call of the webhook is refused for as long as its Service is not programmed.
        kubectl("create", "--dry-run=server", "-f", "-", stdin=written)


def test_an_upgrade_keeps_what_the_operator_wrote_and_an_uninstall_keeps_dynakubes_only(
    helm: Helm, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    wait_for(lambda: all(bundles(kubectl)), "the API server trusts the webhook", within=60)
    before = bundles(kubectl)
    values = {**_VALUES, "webhook": {"timeoutSeconds": 7}, "networkPolicies": {"enabled": False}}
    helm("upgrade", "shop", str(generate.CHART), "--wait", "--timeout=60s", values=values)
    timeouts = "jsonpath={.webhooks[*].timeoutSeconds}"
    assert kubectl("get", "mutatingwebhookconfiguration", "oneagent-webhook", "-o", timeouts) == "7 7"
    assert bundles(kubectl) == before

    assert "pod-security" not in helm("get", "notes", "shop")
    manifest = helm("get", "manifest", "shop")
    helm("uninstall", "shop", "--wait")
    left = kubectl("get", "--ignore-not-found", "-o", "name", "-f", "-", stdin=manifest)
    assert left.split() == ["customresourcedefinition.apiextensions.k8s.io/dynakubes.dynatrace.com"]
