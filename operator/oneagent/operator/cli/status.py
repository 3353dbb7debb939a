"""Status of the cluster: one row a node, one row a DynaKube.

A node's report is read in its driver's pod. A node without a driver, or without a report, has its row too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.operator.cli import k8s_objects, node_reports
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
FIELDS: Final = frozenset({"nodes", "csi_nodes", "pods", "dynakubes", "csi_driver", "daemon_sets"})
"""Fields of the snapshot that it needs."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Numbers are None where the node has no report."""

    node: str
    driver: str
    """`ready`, `not ready`, or `none`"""
    registered: bool
    versions: tuple[str, ...]
    """Versions that are ready in the store"""
    views: int | None
    failures: int | None
    free_bytes: int | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DynaKubeRow:
    name: str
    mode: str
    version: str
    ready: bool
    message: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    nodes: tuple[NodeRow, ...]
    dynakubes: tuple[DynaKubeRow, ...]
    unread: tuple[str, ...]
    reports: tuple[NodeReport, ...]
    """Full report of each node."""

    @property
    def is_healthy(self) -> bool:
        rows = all(not row.problems for row in self.nodes) and all(row.ready for row in self.dynakubes)
        return rows and not self.unread


def summarize(cluster: ClusterSnapshot) -> ClusterStatus:
    return ClusterStatus(
        tuple(_nodes(cluster)),
        tuple(map(_dynakube, cluster.dynakubes)),
        tuple(cluster.unread.values()),
        cluster.reports,
    )


def to_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the JSON form."""
    reports = [node_reports.to_json(report) for report in status.reports]
    return {"format": JSON_FORMAT} | dataclasses.asdict(status) | {"reports": reports}


def _nodes(cluster: ClusterSnapshot) -> Iterator[NodeRow]:
    registered = {
        k8s_objects.name(node)
        for node in cluster.csi_nodes
        if any(driver["name"] == identifiers.DRIVER_NAME for driver in node["spec"].get("drivers") or ())
    }
    pods, reports = cluster.drivers, {report.node: report for report in cluster.reports}
    eligible = _eligible_nodes(cluster)
    for node in sorted({k8s_objects.name(node) for node in cluster.nodes} | pods.keys()):
        pod, report = pods.get(node), reports.get(node)
        state = "none" if pod is None else "ready" if k8s_objects.is_ready(pod) else "not ready"
        problems = list(_problems(state, node in registered, report, is_eligible=node in eligible))
        yield _row(node, state, node in registered, report, tuple(problems))


def _eligible_nodes(cluster: ClusterSnapshot) -> frozenset[str]:
    """Return the nodes that the DaemonSet selects: not those of Windows, for example."""
    if cluster.csi_driver is None:
        return frozenset()
    selector = (cluster.daemon_set or {}).get("spec", {}).get("template", {}).get("spec", {}).get("nodeSelector") or {}
    return frozenset(
        k8s_objects.name(node) for node in cluster.nodes if selector.items() <= k8s_objects.labels(node).items()
    )


def _problems(state: str, registered: bool, report: NodeReport | None, *, is_eligible: bool) -> Iterator[str]:
    if state == "none":
        if is_eligible:
            yield "no pod of the driver"
        return
    if state == "ready" and not registered:
        yield "the driver is not registered with kubelet"
    if report is not None:
        yield from [report.problem] if report.status is None else report.problems


def _row(node: str, state: str, registered: bool, report: NodeReport | None, problems: tuple[str, ...]) -> NodeRow:
    status = report.status if report is not None else None
    if status is None:
        return NodeRow(node, state, registered, (), None, None, None, problems)
    versions = tuple(identifiers.agent_version(row.version) for row in status.versions if row.state == "ready")
    views = sum(row.mounted is True for row in status.volumes)
    free = status.disk.free_bytes if status.disk is not None else None
    return NodeRow(node, state, registered, versions, views, len(status.failures), free, problems)


def _dynakube(kube: Object) -> DynaKubeRow:
    status = k8s_objects.status(kube)
    modes = sorted(((kube.get("spec") or {}).get("oneAgent") or {}).keys() - {"hostGroup"})
    version = (status.get("codeModules") or {}).get("version") or (status.get("oneAgent") or {}).get("version") or ""
    ready = k8s_objects.conditions(kube).get("Ready", {})
    message = "" if ready.get("status") == "True" else str(ready.get("message", "not reconciled yet"))
    return DynaKubeRow(k8s_objects.name(kube), ", ".join(modes), version, ready.get("status") == "True", message)
