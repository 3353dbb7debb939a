"""What the webhook's watches have not brought is asked for while a pod is created, and keeps no pod from starting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oneagent.common.injection import contract, volume_attributes
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications

_INJECT = f"/api/v1/namespaces/{NAMESPACE}/services/https:oneagent-webhook:443/proxy/inject"


@pytest.mark.parametrize(
    ("version", "kind"), [("apps/v1", "ReplicaSet"), ("batch/v1", "Job"), ("v1", "ReplicationController")]
)
def test_a_controller_that_is_not_to_be_had_is_the_workload_itself(
    kubectl: Kubectl, applications: Applications, version: str, kind: str
) -> None:
    pod = manifests.application("new", applications.namespace)
    owner = {"apiVersion": version, "kind": kind, "name": "unheard-of", "uid": "0f0c", "controller": True}
    pod["metadata"]["ownerReferences"] = [owner]
    stored = json.loads(kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod)))
    (volume,) = (each for each in stored["spec"]["volumes"] if each["name"] == contract.BIN_VOLUME)
    attributes = volume["csi"]["volumeAttributes"]
    assert attributes[volume_attributes.WORKLOAD_KIND] == kind
    assert attributes[volume_attributes.WORKLOAD_NAME] == "unheard-of"


def test_a_namespace_without_a_label_may_have_one_by_now(kubectl: Kubectl, webhook: None, namespace: str) -> None:
    """The API server asks about pods of labelled namespaces only, so nobody but a test asks about this one."""
    pod = manifests.application("alone", namespace)
    request: dict[str, Any] = {"uid": "1", "operation": "CREATE", "namespace": namespace, "object": pod}
    request["kind"] = {"group": "", "version": "v1", "kind": "Pod"}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    answer = json.loads(kubectl("create", "--raw", _INJECT, "-f", "-", stdin=json.dumps(review)))
    assert answer["response"] == {"uid": "1", "allowed": True}
