"""Reports of the nodes: what `oneagent-csi` in the driver's pods prints about them.

A node that can't be reached has a report too, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import node_report
from oneagent.common.node_report import NodeStatus, PodReport
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object

COMPONENT: Final = "csi-driver"
_CONTAINER: Final = "server"
_NODE_SECONDS: Final = 10.0
"""Longest time for a node's report, which a healthy node gives in less than one. All are read in parallel."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Status of a node, or the reason why there is none."""

    node: str
    pod: str
    status: NodeStatus | None
    problem: str = ""
    status_json: Mapping[str, Any] | None = None
    """The status as the node sent it, with the fields that only a newer driver has."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems that the node reports."""
        return self.status.problems if self.status is not None else ()


@dataclass(frozen=True, slots=True)
class NodeDiagnosis:
    """Diagnosis of a pod by its node, and its JSON as the node sent it."""

    report: PodReport
    json: Mapping[str, Any]


def to_json(report: NodeReport) -> dict[str, Any]:
    """Return the JSON form, with the status as the node sent it."""
    return {"node": report.node, "pod": report.pod, "status": report.status_json, "problem": report.problem}


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

    # A place for each: slow nodes keep no other waiting.
    with ThreadPoolExecutor(max(1, len(pods)), thread_name_prefix="node") as pool:
        return list(pool.map(read, sorted(pods)))


def diagnose_pod(client: Kubectl, driver: Object, pod: str, uid: str) -> NodeDiagnosis:
    """Run `oneagent-csi why` for a pod `namespace/name`; any `KubectlError`."""
    own = (f"--uid={uid}",) if uid else ()
    report = client.exec_json(k8s_objects.name(driver), _CONTAINER, "oneagent-csi", "why", *own, pod)
    try:
        return NodeDiagnosis(node_report.pod_from_json(report), report)
    except node_report.FormatError as error:
        raise _other_release(error) from error


def _read_status(client: Kubectl, node: str, driver: Object) -> NodeReport:
    pod = k8s_objects.name(driver)
    try:
        limit = min(client.timeout_seconds, _NODE_SECONDS)
        report = dataclasses.replace(client, timeout_seconds=limit).exec_json(pod, _CONTAINER, "oneagent-csi", "status")
        return NodeReport(node, pod, node_report.status_from_json(report), status_json=report)
    except node_report.FormatError as error:
        return NodeReport(node, pod, None, str(_other_release(error)))
    except KubectlError as error:
        return NodeReport(node, pod, None, str(error))


def _other_release(error: node_report.FormatError) -> KubectlError:
    return KubectlError(f"the driver is of another release than this command: {error}")
