"""LimitRanges and quotas that admit a pod only just, with the resources of its containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl, Manifest
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Pod


@dataclass(frozen=True)
class Bounds:
    """Rules of a namespace, by kind, and resources of a container that just keeps them."""

    name: str
    spec: Manifest
    resources: Manifest = field(default_factory=dict)
    kind: str = "LimitRange"

    def objects(self, namespace: str) -> Manifest:
        metadata = {"name": "bounds", "namespace": namespace}
        return {"apiVersion": "v1", "kind": self.kind, "metadata": metadata, "spec": self.spec}


def limit_range(**bounds: Manifest) -> Manifest:
    return {"limits": [{"type": "Container", **bounds}]}


def _both(**amounts: str) -> Manifest:
    return {"requests": amounts, "limits": amounts}


_HARD: Final = {"cpu": "200m", "memory": "128Mi"}
CASES: Final = (
    Bounds("maximum", limit_range(max={"cpu": "200m", "memory": "128Mi"})),
    Bounds(
        "ratio",
        limit_range(maxLimitRequestRatio={"cpu": "2", "memory": "1"}),
        {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}},
    ),
    Bounds("disk", limit_range(max={"ephemeral-storage": "10Gi"})),
    Bounds("pod", {"limits": [{"type": "Pod", "max": _HARD}]}, _both(**_HARD)),
    Bounds(
        "quota",
        {"hard": {f"{section}.{kind}": value for section in ("requests", "limits") for kind, value in _HARD.items()}},
        _both(**_HARD),
        "ResourceQuota",
    ),
    Bounds("best-effort", {"hard": {"pods": "0"}, "scopes": ["NotBestEffort"]}, {}, "ResourceQuota"),
)
SMALL: Final = Bounds("small", limit_range(max={"cpu": "50m", "memory": "32Mi"}))
TINY: Final = Bounds("tiny", limit_range(max={"cpu": "50m", "memory": "20Mi"}))


def apply(bounds: Bounds, kubectl: Kubectl, namespace: str, wait_for: WaitFor) -> None:
    """Returns when the API server holds pods to the rules."""
    kubectl.apply(bounds.objects(namespace))
    if bounds.kind == "ResourceQuota":
        get = ("-n", namespace, "get", "resourcequota", "bounds", "-o", "jsonpath={.status.hard}")
        wait_for(lambda: kubectl(*get), "the quota counts")


def bounded(bounds: Bounds, kubectl: Kubectl, namespace: str, wait_for: WaitFor) -> dict[str, Any]:
    """Return a pod that the namespace admits without an injection."""
    apply(bounds, kubectl, namespace, wait_for)
    pod = manifests.application("bounded", namespace)
    pod["spec"]["containers"][0]["resources"] = bounds.resources
    return pod


def resources_of_ours(pod: Pod) -> Manifest:
    (ours,) = (one for one in pod["spec"]["initContainers"] if one["name"] == contract.INIT_CONTAINER)
    found: Manifest = ours["resources"]
    return found
