"""Operator, webhook and driver as workloads: ready, of one release, images pulled, admitted to their namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from oneagent.common.injection import contract
from oneagent.operator.cli import k8s_objects, snapshot
from oneagent.operator.cli.doctor import Finding, error, installation, warning
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot

_EFFECTS: Final = {
    snapshot.OPERATOR: "DynaKubes are not reconciled, and certificates are not renewed",
    snapshot.WEBHOOK: "new pods start without their agent",
}
_REPLICAS: Final = {snapshot.OPERATOR: 1, snapshot.WEBHOOK: 2}
"""Those of the chart's default values."""
_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_MOST_NAMED: Final = 3


def deployments(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Deployments"
    if installation.state(cluster) != installation.INSTALLED:
        return
    for deployment_name, effect in _EFFECTS.items():
        deployment = cluster.deployment(deployment_name)
        if deployment is None:
            yield error(
                name, f"the Deployment {deployment_name} is not in the namespace {cluster.namespace}: {effect}",
                "install it; or set --operator-namespace to its namespace",
            )  # fmt: skip
            continue
        replicas, ready = deployment["spec"].get("replicas", 1), k8s_objects.status(deployment).get("readyReplicas", 0)
        if ready >= max(1, replicas):
            continue
        if not replicas:
            yield error(
                name, f"the Deployment {deployment_name} is scaled to 0: {effect}",
                f"kubectl -n {cluster.namespace} scale deployment/{deployment_name} "
                f"--replicas={_REPLICAS[deployment_name]}",
            )  # fmt: skip
            continue
        component = deployment_name.removeprefix("oneagent-")
        pods = cluster.component(component)
        why = "; ".join(_pod_problems(pods))
        sentence = f"of {replicas} pods of {deployment_name} {ready} are ready{f': {why}' if why else ''}"
        describe = f"kubectl -n {cluster.namespace} describe pods -l {k8s_objects.COMPONENT}={component}"
        failed = next((pod for pod in _staying(pods) if k8s_objects.has_failed(pod)), None)
        remedy = k8s_objects.next_look(failed) if failed else describe
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
    yield from _driver_images(cluster)


def _driver_images(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Compare the images of the driver's pods: a DaemonSet has the newest only."""
    nodes: dict[str, list[str]] = {}
    for node, pod in sorted(cluster.drivers.items()):
        if image := str(pod["spec"]["containers"][0].get("image", "")):
            nodes.setdefault(image, []).append(node)
    if len(nodes) > 1:
        uses = "; ".join(f"{image} on {_named(names)}" for image, names in sorted(nodes.items()))
        yield warning(
            "Release", f"the driver's pods have different images: {uses}. Nodes of both go on",
            f"wait for `kubectl -n {cluster.namespace} rollout status daemonset/{snapshot.DRIVER}`; with the update "
            "strategy OnDelete delete the older pods",
        )  # fmt: skip


def _named(nodes: list[str]) -> str:
    more = f" and {len(nodes) - _MOST_NAMED} more" if len(nodes) > _MOST_NAMED else ""
    return f"{', '.join(nodes[:_MOST_NAMED])}{more}"


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
    for pod in _staying(cluster.pods):
        for problem in k8s_objects.container_problems(pod):
            if problem.is_image_pull:
                yield error(
                    name, f"the image of container {problem.container} of pod {k8s_objects.full_name(pod)} can't be "
                    f"pulled: {problem.message or problem.reason}", k8s_objects.IMAGE_REMEDY,
                )  # fmt: skip
    for pod in _staying(cluster.pending):
        for problem in k8s_objects.container_problems(pod):
            if problem.is_image_pull and problem.container == contract.INIT_CONTAINER:
                yield error(
                    name, f"pod {k8s_objects.full_name(pod)} can't start: the image of its init container "
                    f"{problem.container} can't be pulled: {problem.message or problem.reason}",
                    f"{k8s_objects.IMAGE_REMEDY}, by a pull secret of the pod's service account or of the node; "
                    "docs/injection.md has the limits",
                )  # fmt: skip


def _staying(pods: Iterable[Object]) -> Iterator[Object]:
    """Yield the pods that are not being deleted: what is wrong with the others goes with them."""
    return (pod for pod in pods if not k8s_objects.is_deleting(pod))


def _pod_problems(pods: Iterable[Object]) -> Iterator[str]:
    for pod in _staying(pods):
        yield from (f"{k8s_objects.name(pod)}: {problem}" for problem in k8s_objects.explain_unready(pod))
        scheduled = k8s_objects.conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            yield f"{k8s_objects.name(pod)}: {scheduled.get('message', 'not scheduled')}"
