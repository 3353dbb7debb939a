"""Labels and annotations of objects and pods: the recommended ones, and those of the cluster's owner."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.unit.chart.rendering import ISSUED, needs_helm, one, rendered

pytestmark = needs_helm

_EVERYTHING: Final[dict[str, Any]] = {
    "crd": {"install": True},
    "csidriver": {"resourceQuota": True},
    "packages": {"mirror": True},
    "openshift": {"enabled": True},
    "priorityClass": {"create": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
}
"""Values by which the chart has every kind of object, but for cert-manager's and PodMonitors."""


@pytest.mark.parametrize(
    "values",
    [_EVERYTHING, {**_EVERYTHING, **ISSUED, "packages": {}}, {"podMonitor": {"enabled": True}}],
    ids=["own certificates", "cert-manager", "PodMonitor"],
)
def test_every_object_has_the_recommended_labels_and_those_of_its_owner(values: dict[str, Any]) -> None:
    ours = {"app.kubernetes.io/name": "mine", "cost-center": "7"}
    annotations = {"example.com/owner": "platform", "helm.sh/resource-policy": "mine"}
    manifests = rendered({**values, "commonLabels": ours, "commonAnnotations": annotations})
    for manifest in manifests:
        labels = manifest["metadata"]["labels"]
        component = labels.pop("app.kubernetes.io/component", "")
        assert component in ("", "csi-driver", "operator", "webhook")
        assert {
            "app.kubernetes.io/name": "oneagent-csi",
            "app.kubernetes.io/instance": "oneagent-csi",
            "app.kubernetes.io/version": "0.1.0",
            "app.kubernetes.io/part-of": "oneagent-csi",
            "app.kubernetes.io/managed-by": "Helm",
            "helm.sh/chart": "oneagent-csi-0.1.0",
            "cost-center": "7",
        }.items() <= labels.items(), manifest["kind"]
        found = manifest["metadata"]["annotations"]
        assert found["example.com/owner"] == "platform"
        if manifest["kind"] == "CustomResourceDefinition":
            assert found["helm.sh/resource-policy"] == "keep"
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            of_pods = manifest["spec"]["template"]["metadata"]["labels"]
            assert of_pods["cost-center"] == "7"
            assert of_pods["app.kubernetes.io/name"] == "oneagent-csi"


def test_pods_are_not_replaced_for_a_new_version_of_the_chart_alone() -> None:
    for manifest in rendered():
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            assert "helm.sh/chart" not in manifest["spec"]["template"]["metadata"]["labels"]


def test_labels_and_annotations_are_added_and_none_of_ours_is_lost() -> None:
    labels = {"team": "platform", "app.kubernetes.io/component": "mine"}
    manifests = rendered({"csidriver": {"podLabels": labels, "podAnnotations": {"example.com/note": "1"}}})
    metadata = one(manifests, "DaemonSet")["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "platform"
    assert metadata["labels"]["app.kubernetes.io/component"] == "csi-driver"
    assert metadata["annotations"]["example.com/note"] == "1"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "server"
