"""Pods of the chart: images, accounts, security, probes, volumes, and where and how they are placed and replaced."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from deploy import generate

from tests.unit.chart.rendering import PARTS, container, names, needs_helm, one, rendered, workload

pytestmark = needs_helm


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "oneagent-csi:0.1.0"),
        ({"repository": "example.com/agents/csi", "tag": "v2"}, "example.com/agents/csi:v2"),
        ({"tag": "v2", "digest": f"sha256:{'a' * 64}"}, f"oneagent-csi@sha256:{'a' * 64}"),
    ],
)
def test_all_containers_and_those_in_pods_have_the_image(image: dict[str, str], expected: str) -> None:
    manifests = rendered({"image": {"pullPolicy": "Always", "pullSecrets": [{"name": "registry"}], **image}})
    pods = [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
    assert len(pods) == 3
    assert {each["image"] for pod in pods for each in pod["containers"]} == {expected}
    assert {each["imagePullPolicy"] for pod in pods for each in pod["containers"]} == {"Always"}
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}] for pod in pods)
    assert {f"--image={expected}", "--image-pull-policy=Always"} <= set(container(manifests, "webhook")["args"])


def test_pull_secrets_of_a_chart_that_this_one_is_a_part_of_are_used_as_well() -> None:
    values = {"image": {"pullSecrets": [{"name": "own"}]}, "global": {"imagePullSecrets": ["own", {"name": "company"}]}}
    manifests = rendered(values)
    pods = [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("DaemonSet", "Deployment")]
    assert [pod["imagePullSecrets"] for pod in pods] == [[{"name": "own"}, {"name": "company"}]] * 3
    assert "--pull-secrets=own,company" in container(manifests, "operator")["args"]
    assert "--image-pull-secret=oneagent-image-pull" in container(manifests, "webhook")["args"]


def test_another_folder_of_kubelet_is_meant_everywhere() -> None:
    text = generate.template(values="csidriver: {kubeletPath: /var/lib/k0s/kubelet/}")
    assert "/var/lib/kubelet" not in text
    manifests = [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]
    assert "--target-root=/var/lib/k0s/kubelet" in container(manifests, "server")["args"]
    mounted = {mount["mountPath"] for mount in container(manifests, "server")["volumeMounts"]}
    assert "/var/lib/k0s/kubelet/pods" in mounted


def test_service_accounts_can_have_other_names_wherever_they_are_named() -> None:
    values = {
        part: {"serviceAccount": {"name": f"{part}-account", "annotations": {"example.com/role": part}}}
        for part in PARTS
    }
    text = generate.template(values=json.dumps({**values, "openshift": {"enabled": True}, "crd": {"install": False}}))
    manifests = [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]
    for part, name in PARTS.items():
        account = one(manifests, "ServiceAccount", f"{part}-account")
        assert account["metadata"]["annotations"] == {"example.com/role": part}
        assert workload(manifests, part)["template"]["spec"]["serviceAccountName"] == f"{part}-account"
        assert f"system:serviceaccount:dynatrace:oneagent-{name}" not in text
        assert ("ServiceAccount", f"oneagent-{name}") not in names(manifests)
    accounts = {m["metadata"]["name"] for m in manifests if m["kind"] == "ServiceAccount"}
    assert {subject["name"] for m in manifests for subject in m.get("subjects", ())} <= accounts


def test_security_contexts_and_numbers_of_probes_are_laid_over_the_charts_own() -> None:
    chosen: dict[str, Any] = {
        "podSecurityContext": {"runAsUser": 1000, "seccompProfile": {"type": "Unconfined"}},
        "securityContext": {"runAsGroup": 1000},
        "livenessProbe": {"timeoutSeconds": 7},
    }
    driver = {key: value for key, value in chosen.items() if key != "podSecurityContext"}
    manifests = rendered(
        {
            "csidriver": {
                "podSecurityContext": {"fsGroup": 7},
                "server": driver,
                **{
                    name: {"securityContext": {"runAsGroup": 1000}}
                    for name in ("provisioner", "registrar", "livenessprobe")
                },
            },
            "operator": {**chosen, "readinessProbe": {"failureThreshold": 9}},
            "webhook": {**chosen, "readinessProbe": {"failureThreshold": 9}},
        }
    )
    default = rendered()
    for part in ("operator", "webhook"):
        context = workload(manifests, part)["template"]["spec"]["securityContext"]
        assert context == {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "Unconfined"}}
        assert container(manifests, part)["readinessProbe"]["failureThreshold"] == 9
        assert container(manifests, part)["readinessProbe"]["periodSeconds"] == 2
    assert workload(manifests, "csidriver")["template"]["spec"]["securityContext"]["fsGroup"] == 7
    for name in ("server", "provisioner", "registrar", "livenessprobe", "operator", "webhook"):
        own = container(default, name)["securityContext"]
        assert container(manifests, name)["securityContext"] == {**own, "runAsGroup": 1000}
    for name in ("server", "operator", "webhook"):
        assert container(manifests, name)["livenessProbe"] == {
            **container(default, name)["livenessProbe"],
            "timeoutSeconds": 7,
        }


def test_variables_volumes_and_mounts_are_added() -> None:
    more = {
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    }
    volumes = {"extraVolumes": [{"name": "more", "configMap": {"name": "more"}}]}
    manifests = rendered(
        {"csidriver": {**volumes, "provisioner": more}, "operator": {**volumes, **more}, "webhook": {**volumes, **more}}
    )
    for part, name in (("csidriver", "provisioner"), ("operator", "operator"), ("webhook", "webhook")):
        assert more["extraEnv"][0] in container(manifests, name)["env"]
        assert more["extraVolumeMounts"][0] in container(manifests, name)["volumeMounts"]
        assert volumes["extraVolumes"][0] in workload(manifests, part)["template"]["spec"]["volumes"]
    assert more["extraEnv"][0] not in container(manifests, "server")["env"]


def test_the_startup_taint_is_tolerated_by_those_without_whom_it_would_stay() -> None:
    manifests = rendered({"startupTaint": "example.com/agent:NoExecute"})
    assert "--startup-taint=example.com/agent:NoExecute" in container(manifests, "operator")["args"]
    for name in ("oneagent-operator", "oneagent-webhook"):
        pod = one(manifests, "Deployment", name)["spec"]["template"]["spec"]
        assert pod["tolerations"] == [{"key": "example.com/agent", "effect": "NoExecute", "operator": "Exists"}]


def test_pods_are_spread_replaced_and_kept_as_was_chosen() -> None:
    chosen: dict[str, Any] = {
        "replicas": 3,
        "updateStrategy": {"type": "Recreate"},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
        "podDisruptionBudget": {"minAvailable": "50%"},
    }
    manifests = rendered({"operator": chosen, "webhook": chosen, "csidriver": {"updateStrategy": {"type": "OnDelete"}}})
    assert workload(manifests, "csidriver")["updateStrategy"] == {"type": "OnDelete"}
    for part in ("operator", "webhook"):
        spec = workload(manifests, part)
        assert spec["strategy"] == {"type": "Recreate"}
        (constraint,) = spec["template"]["spec"]["topologySpreadConstraints"]
        assert constraint.pop("labelSelector")["matchLabels"] == spec["selector"]["matchLabels"]
        assert constraint == chosen["topologySpreadConstraints"][0]
        assert one(manifests, "PodDisruptionBudget", f"oneagent-{part}")["spec"]["minAvailable"] == "50%"
    off = {"podDisruptionBudget": {"enabled": False}}
    kinds = {kind for kind, _ in names(rendered({"operator": {"replicas": 2, **off}, "webhook": off}))}
    assert "PodDisruptionBudget" not in kinds


def test_one_webhook_has_no_budget_that_would_keep_its_node_from_being_emptied() -> None:
    assert ("PodDisruptionBudget", "oneagent-webhook") in names(rendered())
    assert ("PodDisruptionBudget", "oneagent-webhook") not in names(rendered({"webhook": {"replicas": 1}}))
