"""Operator, webhook and driver as workloads: ready, of one release, images pulled, admitted to their namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from oneagent.common.injection import contract
from oneagent.operator.cli import k8s_objects, snapshot
from oneagent.operator.cli.doctor import Finding, error, warning
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot

_EFFECTS: Final = {
    snapshot.OPERATOR: "DynaKubes are not reconciled, and certificates are not renewed",
    snapshot.WEBHOOK: "new pods start without their agent",
}
_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_PULL: Final = "check the image's name, and that the node may pull it"


def deployments(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Deployments"
    for wanted, effect in _EFFECTS.items():
        found = cluster.deployment(wanted)
        if found is None:
            yield error(
                name, f"the Deployment {wanted} is not in the namespace {cluster.namespace}: {effect}",
                "install it; or set --namespace to its namespace",
            )  # fmt: skip
            continue
        replicas, ready = found["spec"].get("replicas", 1), k8s_objects.status(found).get("readyReplicas", 0)
        if ready >= max(1, replicas):
            continue
        if not replicas:
            yield error(
                name, f"the Deployment {wanted} is scaled to 0: {effect}",
                f"kubectl -n {cluster.namespace} scale deployment/{wanted} --replicas=2",
            )  # fmt: skip
            continue
        why = "; ".join(_why(cluster.component(wanted.removeprefix("oneagent-"))))
        sentence = f"of {replicas} pods of {wanted} {ready} are ready{f': {why}' if why else ''}"
        remedy = f"kubectl -n {cluster.namespace} describe pods -l {k8s_objects.COMPONENT}={wanted.removeprefix('oneagent-')}"
        yield warning(name, sentence, remedy) if ready else error(name, f"{sentence}: {effect}", remedy)


def release(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Compare the images of all components, which differ only during an upgrade."""
    images: dict[str, set[str]] = {}
    for workload in (*cluster.deployments, *cluster.daemon_sets):
        if k8s_objects.name(workload) in (*_EFFECTS, snapshot.DRIVER):
            for container in workload["spec"]["template"]["spec"]["containers"]:
                images.setdefault(container["image"], set()).add(k8s_objects.name(workload))
    if len(images) > 1:
        shown = "; ".join(f"{', '.join(sorted(who))}: {image}" for image, who in sorted(images.items()))
        yield warning("Release", f"the components have different images: {shown}", "upgrade all of them to one release")


def pod_security(cluster: ClusterSnapshot) -> Iterator[Finding]:
    own = next((one for one in cluster.namespaces if k8s_objects.name(one) == cluster.namespace), None)
    level = k8s_objects.labels(own).get(_ENFORCE, "") if own is not None else ""
    if level in ("baseline", "restricted"):
        yield error(
            "PodSecurity", f"the namespace {cluster.namespace} has {_ENFORCE}={level}: pods of the driver are refused",
            f"kubectl label namespace {cluster.namespace} {_ENFORCE}=privileged --overwrite",
        )  # fmt: skip


def images(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Find images that can't be pulled, of own pods and of injected init containers."""
    name = "Images"
    for pod in cluster.pods:
        for trouble in k8s_objects.troubles(pod):
            if trouble.is_image_pull:
                yield error(
                    name, f"the image of container {trouble.container} of pod {k8s_objects.full_name(pod)} can't be pulled: "
                    f"{trouble.message or trouble.reason}", _PULL,
                )  # fmt: skip
    for pod in cluster.pending:
        for trouble in k8s_objects.troubles(pod):
            if trouble.is_image_pull and trouble.container == contract.INIT_CONTAINER:
                yield error(
                    name, f"pod {k8s_objects.full_name(pod)} can't start: the image of its init container "
                    f"{trouble.container} can't be pulled: {trouble.message or trouble.reason}",
                    f"{_PULL}, by a pull secret of the pod's service account or of the node; docs/injection.md has "
                    "the limits",
                )  # fmt: skip


def _why(pods: Iterable[Object]) -> Iterator[str]:
    for pod in pods:
        for trouble in k8s_objects.troubles(pod):
            message = f" ({trouble.message})" if trouble.message else ""
            yield f"{k8s_objects.name(pod)}: {trouble.container} {trouble.reason}{message}"
        scheduled = k8s_objects.conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            yield f"{k8s_objects.name(pod)}: {scheduled.get('message', 'not scheduled')}"
