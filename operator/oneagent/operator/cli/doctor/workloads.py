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
    for deployment_name, effect in _EFFECTS.items():
        deployment = cluster.deployment(deployment_name)
        if deployment is None:
            yield error(
                name, f"the Deployment {deployment_name} is not in the namespace {cluster.namespace}: {effect}",
                "install it; or set --namespace to its namespace",
            )  # fmt: skip
            continue
        replicas, ready = deployment["spec"].get("replicas", 1), k8s_objects.status(deployment).get("readyReplicas", 0)
        if ready >= max(1, replicas):
            continue
        if not replicas:
            yield error(
                name, f"the Deployment {deployment_name} is scaled to 0: {effect}",
                f"kubectl -n {cluster.namespace} scale deployment/{deployment_name} --replicas=2",
            )  # fmt: skip
            continue
        component = deployment_name.removeprefix("oneagent-")
        why = "; ".join(_pod_problems(cluster.component(component)))
        sentence = f"of {replicas} pods of {deployment_name} {ready} are ready{f': {why}' if why else ''}"
        remedy = f"kubectl -n {cluster.namespace} describe pods -l {k8s_objects.COMPONENT}={component}"
        yield warning(name, sentence, remedy) if ready else error(name, f"{sentence}: {effect}", remedy)


def release(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Compare the images of all components, which differ only during an upgrade."""
    images: dict[str, set[str]] = {}
    for workload in (*cluster.deployments, *cluster.daemon_sets):
        if k8s_objects.name(workload) in (*_EFFECTS, snapshot.DRIVER):
            for container in workload["spec"]["template"]["spec"]["containers"]:
                images.setdefault(container["image"], set()).add(k8s_objects.name(workload))
    if len(images) > 1:
        uses = "; ".join(f"{', '.join(sorted(users))}: {image}" for image, users in sorted(images.items()))
        yield warning("Release", f"the components have different images: {uses}", "upgrade all of them to one release")


def pod_security(cluster: ClusterSnapshot) -> Iterator[Finding]:
    own = next((obj for obj in cluster.namespaces if k8s_objects.name(obj) == cluster.namespace), None)
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
        for problem in k8s_objects.container_problems(pod):
            if problem.is_image_pull:
                yield error(
                    name, f"the image of container {problem.container} of pod {k8s_objects.full_name(pod)} can't be "
                    f"pulled: {problem.message or problem.reason}", _PULL,
                )  # fmt: skip
    for pod in cluster.pending:
        for problem in k8s_objects.container_problems(pod):
            if problem.is_image_pull and problem.container == contract.INIT_CONTAINER:
                yield error(
                    name, f"pod {k8s_objects.full_name(pod)} can't start: the image of its init container "
                    f"{problem.container} can't be pulled: {problem.message or problem.reason}",
                    f"{_PULL}, by a pull secret of the pod's service account or of the node; docs/injection.md has "
                    "the limits",
                )  # fmt: skip


def _pod_problems(pods: Iterable[Object]) -> Iterator[str]:
    for pod in pods:
        for problem in k8s_objects.container_problems(pod):
            message = f" ({problem.message})" if problem.message else ""
            yield f"{k8s_objects.name(pod)}: {problem.container} {problem.reason}{message}"
        scheduled = k8s_objects.conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            yield f"{k8s_objects.name(pod)}: {scheduled.get('message', 'not scheduled')}"
