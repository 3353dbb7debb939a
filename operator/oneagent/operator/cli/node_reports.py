"""Reports of the nodes: what `oneagent-csi` in the driver's pods prints about them.

A node that can't be reached has a report too, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import node_report
from oneagent.common.node_report import NodeStatus, PodReport
from oneagent.operator.cli import k8s_objects, kubectl
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object

COMPONENT: Final = "csi-driver"
_CONTAINER: Final = "server"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Status of a node, or the problem that prevents it."""

    node: str
    pod: str
    status: NodeStatus | None
    problem: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems that the node reports."""
        return self.status.problems if self.status is not None else ()


def to_json(report: NodeReport) -> dict[str, Any]:
    """Return the JSON form, with the status in the node's own."""
    status = node_report.status_to_json(report.status) if report.status is not None else None
    return dataclasses.asdict(report) | {"status": status}


def driver_pods(pods: Iterable[Object]) -> dict[str, Object]:
    """Return the driver's pods by node; of two on one node the one that is not being deleted."""
    by_node: dict[str, Object] = {}
    for pod in pods:
        if k8s_objects.labels(pod).get(k8s_objects.COMPONENT) != COMPONENT or not k8s_objects.node(pod):
            continue
        if k8s_objects.node(pod) not in by_node or not k8s_objects.is_deleting(pod):
            by_node[k8s_objects.node(pod)] = pod
    return by_node


def read_statuses(
    client: Kubectl, pods: Mapping[str, Object], report_progress: Callable[[str], None] = lambda _: None
) -> list[NodeReport]:
    """Read the status of all nodes in parallel; `report_progress` gets each node's name."""

    def read(node: str) -> NodeReport:
        report = _read_status(client, node, pods[node])
        report_progress(node)
        return report

    with kubectl.thread_pool() as pool:
        return list(pool.map(read, sorted(pods)))


def diagnose_pod(client: Kubectl, driver: Object, pod: str) -> PodReport:
    """Run `oneagent-csi why` for a pod `namespace/name`; any `KubectlError`."""
    report = client.exec_json(k8s_objects.name(driver), _CONTAINER, "oneagent-csi", "why", pod)
    try:
        return node_report.pod_from_json(report)
    except node_report.FormatError as error:
        raise _other_release(error) from error


def _read_status(client: Kubectl, node: str, driver: Object) -> NodeReport:
    pod = k8s_objects.name(driver)
    try:
        report = client.exec_json(pod, _CONTAINER, "oneagent-csi", "status")
        return NodeReport(node, pod, node_report.status_from_json(report))
    except node_report.FormatError as error:
        return NodeReport(node, pod, None, str(_other_release(error)))
    except KubectlError as error:
        return NodeReport(node, pod, None, str(error))


def _other_release(error: node_report.FormatError) -> KubectlError:
    return KubectlError(f"the driver is of another release than this command: {error}")
