"""Who is not to be monitored is left as it is, and it can be told why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.webhook.applications import Applications, untouched


def dry_run(kubectl: Kubectl, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server would store it."""
    created = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod))
    found: dict[str, Any] = json.loads(created)
    return found


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [
        ({"dynatrace.com/inject": "false"}, {}),
        ({"oneagent.dynatrace.com/inject": "false", "metadata-enrichment.dynatrace.com/inject": "false"}, {}),
        ({"container.inject.dynatrace.com/shop": "false"}, {}),
    ],
)
def test_a_pod_that_opted_out_goes_through_unchanged(
    kubectl: Kubectl, applications: Applications, annotations: dict[str, str], spec: dict[str, Any]
) -> None:
    pod = manifests.application("out", applications.namespace)
    pod["metadata"]["annotations"] = annotations
    pod["spec"] |= spec
    stored = dry_run(kubectl, pod)
    assert untouched(stored)
    assert stored["metadata"]["annotations"]["oneagent.dynatrace.com/injected"] == "false"
    assert stored["metadata"]["annotations"]["oneagent.dynatrace.com/reason"]


def test_a_namespace_that_nobody_selects_is_none_of_ours(kubectl: Kubectl, webhook: None, namespace: str) -> None:
    stored = dry_run(kubectl, manifests.application("alone", namespace))
    assert untouched(stored)
    assert "annotations" not in stored["metadata"]


def test_a_namespace_has_its_label_as_soon_as_it_is_there(kubectl: Kubectl, dynakube: str) -> None:
    """The operator would need a moment; the first pod may be as quick."""
    made = manifests.namespace("quick")
    made["metadata"]["labels"]["team"] = dynakube
    created = kubectl("create", "-o", "json", "-f", "-", stdin=manifests.as_yaml(made))
    kubectl.delete(made, wait=False)
    assert f'"dynakube.internal.dynatrace.com/instance": "{dynakube}"' in created


def test_three_hundred_pods_at_once_are_all_injected(
    kubectl: Kubectl, applications: Applications, wait_for: WaitFor
) -> None:
    """None of them is ever scheduled: it is the admission that is tried."""
    pod = manifests.application("many", applications.namespace)
    pod["spec"]["nodeSelector"] = {"nowhere": "at-all"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many", "namespace": applications.namespace},
        "spec": {
            "replicas": 300,
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {"metadata": {"labels": {"app": "shop"}}, "spec": pod["spec"]},
        },
    }
    applications.create(deployment)
    wait_for(lambda: len(applications.pods()) == 300, "300 pods", 90, 1)
    assert not [pod for pod in applications.pods() if untouched(pod)]
    kubectl.delete(deployment, wait=False)


def test_the_policy_of_the_security_page_lets_only_a_namespaces_own_agent_in(
    kubectl: Kubectl, applications: Applications, dynakube: str, apply: Apply, wait_for: WaitFor
) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", Path("docs/security.md").read_text(), re.DOTALL)
    policy = yaml.safe_load(text)
    name = policy["metadata"]["name"]
    binding = {
        "apiVersion": policy["apiVersion"],
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    apply(policy, binding)

    def refused(other: str) -> bool:
        try:
            dry_run(kubectl, manifests.pod("thief", applications.namespace, other))
        except KubectlError as error:
            return policy["spec"]["validations"][0]["message"] in str(error)
        return False

    wait_for(lambda: refused("other"), "the policy holds")
    assert not refused(dynakube)
    assert not untouched(dry_run(kubectl, manifests.application("app", applications.namespace)))
