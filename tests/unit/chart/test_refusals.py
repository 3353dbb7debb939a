"""Values that cannot be are refused by their names, and so are releases of Kubernetes that are too old."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from deploy import generate

from tests.unit.chart.rendering import ISSUED, needs_helm, refusal

pytestmark = needs_helm


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"image": {"tagg": "1"}}, "'/image': additional properties 'tagg'"),
        ({"csiDriver": {}}, "'csiDriver' not allowed"),
        ({"csidriver": {"kubeletPath": "kubelet"}}, "'/csidriver/kubeletPath'"),
        ({"csidriver": {"server": {"flags": {"publsh-wait": "3s"}}}}, "'publsh-wait' not allowed"),
        ({"csidriver": {"server": {"flags": {"publish-wait": 3}}}}, "'/csidriver/server/flags/publish-wait'"),
        ({"csidriver": {"tolerations": {"operator": "Exists"}}}, "'/csidriver/tolerations'"),
        ({"operator": {"replicas": 0}}, "'/operator/replicas'"),
        ({"operator": {"resources": {"limits": {"memory": "512 MB"}}}}, "'/operator/resources/limits/memory'"),
        ({"webhook": {"affinity": {"podAntiAfinity": {}}}}, "'podAntiAfinity' not allowed"),
        (
            {"webhook": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}}},
            "got array",
        ),
        ({"webhook": {"failurePolicy": "fail"}}, "'Ignore', 'Fail'"),
        ({"webhook": {"livenessProbe": {"httpGet": {}}}}, "'httpGet' not allowed"),
        ({"webhook": {"port": 0}}, "'/webhook/port'"),
        ({"logLevel": "trace"}, "'/logLevel'"),
        ({"proxy": {"url": "http://user:password@proxy.example.com"}}, "'/proxy/url'"),
        ({"proxy": {"url": "http://proxy.example.com", "secret": "a"}}, "Set one of them"),
        ({"proxy": {"noProxy": ["a"]}}, "noProxy requires a proxy"),
        ({"webhook": {"timeoutSeconds": 31}}, "'/webhook/timeoutSeconds'"),
        ({"certificates": {"issuer": "vault"}}, "'self', 'cert-manager'"),
        ({"startupTaint": "example.com/agent"}, "'/startupTaint'"),
        ({"startupTaint": "node.kubernetes.io/not-ready:NoSchedule"}, "a taint of Kubernetes"),
        ({"registries": {"mirrors": ["docker.io/team=mirror.example"]}}, "'/registries/mirrors/0'"),
        ({"packages": {"mirror": True, "enabled": False}}, "packages.mirror"),
        ({"packages": {"mirror": True}, **ISSUED}, "Set packages.mirror to false"),
        ({"csidriver": {"enabled": False}, **ISSUED}, "csidriver.enabled is false"),
        ({"podMonitors": {"enabled": True}}, "podMonitors is not a value of this chart. Set podMonitor"),
        ({"networkPolicies": {}}, "networkPolicies is not a value of this chart. Set networkPolicy"),
        ({"imagePullSecrets": [{"name": "a"}]}, "imagePullSecrets is not a value of this chart. Set image.pullSecrets"),
        ({"image": {"repository": ""}}, "--set image.repository=registry.example.com/oneagent-csi"),
        ({"prometheusRule": {"alerts": {"OneAgentSlow": {}}}}, "'OneAgentSlow' not allowed"),
        ({"prometheusRule": {"alerts": {"OneAgentPartDown": {"threshold": 2}}}}, "'threshold' not allowed"),
        ({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "Set one of them to false"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused_by_its_name(values: dict[str, Any], expected: str) -> None:
    assert expected in refusal(values)


def test_kubernetes_of_before_the_admission_policies_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        generate.template("--kube-version=1.29.0")
    assert "1.30" in caught.value.stderr
