"""Driver on every node, registered with kubelet, and the problems that each node reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common import identifiers, remedies
from oneagent.operator.cli import k8s_objects, snapshot
from oneagent.operator.cli.doctor import Finding, dynakubes, error, note, warning
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot

_EXPECTED: Final[Mapping[str, Any]] = {
    "attachRequired": (False, "pods would wait for an attach controller, and there is none"),
    "podInfoOnMount": (True, "the driver does not learn which pod a volume is for"),
    "volumeLifecycleModes": (["Ephemeral"], "kubelet refuses the volumes of pods"),
}
_MAX_NAMED: Final = 5


def driver(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Check that the CSIDriver object and the DaemonSet are both there, or both absent."""
    name, csi_driver = "Driver", cluster.csi_driver
    if csi_driver is None and cluster.daemon_set is None:
        yield note(name, "the node driver is not installed: pods download their agent in an init container")
        return
    if csi_driver is None:
        yield error(
            name, f"the CSIDriver {identifiers.DRIVER_NAME} is not there, and the DaemonSet {snapshot.DRIVER} is: "
            "kubelet treats its volumes as another driver's", "apply the manifests or the chart again",
        )  # fmt: skip
        return
    for field, (expected, effect) in _EXPECTED.items():
        value = csi_driver["spec"].get(field)
        if value != expected:
            yield error(
                name, f"the CSIDriver {identifiers.DRIVER_NAME} has {field}: {value}, and not {expected}: {effect}",
                "delete the CSIDriver, and apply the manifests or the chart again",
            )  # fmt: skip
    if cluster.daemon_set is None:
        yield error(
            name, f"the CSIDriver {identifiers.DRIVER_NAME} is there, and the DaemonSet {snapshot.DRIVER} is not: new "
            "pods start without their agent", "apply the manifests or the chart again; to go without the driver, the "
            "chart has csidriver.enabled=false",
        )  # fmt: skip
    elif k8s_objects.is_deleting(cluster.daemon_set):
        yield error(
            name, f"the DaemonSet {snapshot.DRIVER} is being deleted: new pods start without their agent",
            "restart the monitored workloads, since its pods stay until the last volume is gone; then apply the "
            "manifests or the chart again",
        )  # fmt: skip
    elif cluster.nodes and not any(_selects(cluster.daemon_set, node) for node in cluster.nodes):
        selector = ", ".join(f"{key}={value}" for key, value in _node_selector(cluster.daemon_set).items())
        yield error(
            name, f"the DaemonSet {snapshot.DRIVER} runs on no node: no node has the labels of its nodeSelector, "
            f"{selector}", "set csidriver.nodeSelector to labels that nodes have; kubectl get nodes --show-labels",
        )  # fmt: skip


def _node_selector(daemon_set: Object) -> Mapping[str, str]:
    return daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}


def _selects(daemon_set: Object, node: Object) -> bool:
    return _node_selector(daemon_set).items() <= k8s_objects.labels(node).items()


def without_driver(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Find nodes where a pod with a volume would wait forever; those that the DaemonSet leaves out are notes."""
    name, daemon_set = "NodesWithoutDriver", cluster.daemon_set
    if daemon_set is None:
        if cluster.csi_driver is not None:
            yield error(
                name, f"no node keeps a driver: the DaemonSet {snapshot.DRIVER} is not there",
                "apply the manifests or the chart again",
            )  # fmt: skip
        return
    running = cluster.drivers
    for node in cluster.nodes:
        node_name = k8s_objects.name(node)
        if k8s_objects.labels(node).get("kubernetes.io/os", "linux") != "linux":
            continue
        if not _selects(daemon_set, node):
            yield _left_out(name, node_name, cluster)
        elif not k8s_objects.has_condition(node, "Ready"):
            yield warning(name, f"node {node_name} is not ready", f"kubectl describe node {node_name}")
        elif node_name not in running:
            yield error(
                name, f"node {node_name} has no pod of the driver: pods with an agent's volume can't start there",
                why_no_pod(cluster),
            )  # fmt: skip
        elif not k8s_objects.is_ready(running[node_name]):
            yield _unready(name, node_name, running[node_name])


def why_no_pod(cluster: ClusterSnapshot) -> str:
    """Return the remedy for a node that the DaemonSet selects, and that has no pod of it."""
    return (
        f"kubectl -n {cluster.namespace} describe daemonset/{snapshot.DRIVER} shows why, such as a quota; its "
        "tolerations and affinity have to allow for the node"
    )


def _left_out(name: str, node: str, cluster: ClusterSnapshot) -> Finding:
    waiting = [
        k8s_objects.full_name(pod)
        for pod in cluster.pending
        if k8s_objects.node(pod) == node and k8s_objects.has_driver_volume(pod) and not k8s_objects.is_deleting(pod)
    ]
    sentence = f"node {node} has no driver: the DaemonSet's nodeSelector leaves it out"
    if not waiting:
        return note(name, sentence)
    more = f" and {len(waiting) - _MAX_NAMED} more" if len(waiting) > _MAX_NAMED else ""
    return error(
        name, f"{sentence}, so these pods can't start there: {', '.join(waiting[:_MAX_NAMED])}{more}",
        "let csidriver.nodeSelector select the node, or keep monitored pods off it",
    )  # fmt: skip


def registration(cluster: ClusterSnapshot) -> Iterator[Finding]:
    registered = {
        k8s_objects.name(node)
        for node in cluster.csi_nodes
        if any(driver["name"] == identifiers.DRIVER_NAME for driver in node["spec"].get("drivers") or ())
    }
    for node, pod in cluster.drivers.items():
        if k8s_objects.is_ready(pod) and node not in registered:
            yield error(
                "Registration",
                f"the driver is not registered with kubelet on node {node}: its CSINode does not list it",
                f"kubectl -n {cluster.namespace} logs {k8s_objects.name(pod)} -c registrar. Kubelet's root directory "
                "may be another than csidriver.kubeletPath",
            )  # fmt: skip


def reports(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Nodes"
    leaving = {k8s_objects.name(pod) for pod in cluster.pods if k8s_objects.is_deleting(pod)}
    for report in cluster.reports:
        if report.pod in leaving:
            continue
        if report.status is None:
            yield warning(
                name, f"node {report.node} gives no report: {report.problem}",
                f"see pod {report.pod} and its container server; the right to create pods/exec is needed",
            )  # fmt: skip
            continue
        remedy = f"kubectl -n {cluster.namespace} exec {report.pod} -c server -- oneagent-csi status"
        problems = [problem for problem in report.problems if not _is_reported(problem, report, cluster)]
        for problem in problems[:_MAX_NAMED]:
            yield error(name, f"node {report.node}: {problem}", remedy)
        if (more := len(problems) - _MAX_NAMED) > 0:
            yield error(name, f"node {report.node}: and {more} more problems", remedy)


def _is_reported(problem: str, report: NodeReport, cluster: ClusterSnapshot) -> bool:
    """Return True for a failed install that the condition of its DynaKube reports, for all nodes.

    A pod that runs without the agent since then is another problem: it has to be restarted.
    """
    if not problem.startswith("version "):
        return False
    failed = {
        kube
        for version in (report.status.versions if report.status else ())
        if version.message and remedies.split(version.message)[0] in problem
        for kube in version.wanted_by
    }
    return any(
        k8s_objects.conditions(kube).get(dynakubes.ROLLOUT, {}).get("status") == "False"
        for kube in cluster.dynakubes
        if k8s_objects.name(kube) in failed
    )


def _unready(name: str, node: str, pod: Object) -> Finding:
    pod_name = k8s_objects.name(pod)
    if k8s_objects.is_deleting(pod):
        # Its successor starts when it has gone; after an uninstall it stays until no pod on the node has a volume.
        return note(name, f"the driver's pod {pod_name} on node {node} is being deleted")
    problems = "; ".join(k8s_objects.explain_unready(pod))
    return error(
        name, f"the driver's pod {pod_name} on node {node} is not ready{f': {problems}' if problems else ''}",
        k8s_objects.next_look(pod),
    )  # fmt: skip
