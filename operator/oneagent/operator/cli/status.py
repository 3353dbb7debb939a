"""Status of the cluster: the components, one row a node, one row a DynaKube, and what needs attention.

Components are judged by what is installed, with the checks of `doctor` that need no command in a pod. The state of a
node is in its Lease: all are read in one list. Views, failed mounts and the disk are in the full report of a node,
which is read in its driver's pod, and only for nodes that were asked for; so a slow node delays nothing. A node without
a driver, or without a report, has its row too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import agents, identifiers, node_lease, node_report
from oneagent.common.dynakube import namespace_mapping
from oneagent.operator.cli import failed_versions, k8s_objects, node_reports, snapshot
from oneagent.operator.cli.doctor import Finding, Severity, checks, error, installation, warning
from oneagent.operator.cli.doctor import nodes as doctor_nodes
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.node_reports import NodeReport
from oneagent.operator.cli.snapshot import ClusterSnapshot

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
FIELDS: Final = frozenset(
    {
        *("definition", "mutating", "validating", "csi_driver", "csi_nodes", "nodes", "namespaces"),
        *("deployments", "daemon_sets", "pods", "dynakubes", "node_leases", "secrets"),
    }
)
"""Fields of the snapshot that it needs."""
_CHECKS: Final = frozenset(
    {
        *("Installation", "Definition", "WebhookConfigurations", "Trust", "Deployments", "Release", "PodSecurity"),
        *("Secrets", "Driver", "DynaKubes", "Tokens", "Namespaces", "Deletion"),
    }
)
"""The others need a command in a pod, a list of all pods, or are about nodes, which have their rows."""
_RECENT_SECONDS: Final = 86400.0
_STARTING_SECONDS: Final = 60.0
"""Age of a driver's pod up to which it is starting, and its first report is due."""
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """Operator, webhook or driver. `kind` is empty if it is not installed."""

    component: str
    kind: str
    ready: int
    desired: int
    version: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Numbers are None where the full report was not read."""

    node: str
    driver: str
    """`ready`, `not ready`, `starting`, `terminating`, or `none`"""
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
    """Name of the DynaKube, or that of the driver for an object of another kind"""
    mode: str
    version: str
    ready: bool
    message: str
    nodes: Mapping[str, int]
    """Number of nodes by the state of its version there."""
    object: str
    """Kind and name of the object in the API"""


@dataclass(frozen=True, slots=True)
class Summary:
    """The cluster in numbers."""

    nodes: int
    """Nodes that the driver is for"""
    nodes_ready: int
    """Those with a ready driver and without a problem"""
    versions: Mapping[str, int]
    """Nodes by version that is ready there"""
    namespaces: int
    namespaces_monitored: int
    failures: int
    """Problems"""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    taken_at: float
    namespace: str
    installation: str
    """`installed`, `half removed` or `not installed`"""
    summary: Summary
    components: tuple[ComponentRow, ...]
    nodes: tuple[NodeRow, ...]
    dynakubes: tuple[DynaKubeRow, ...]
    problems: tuple[Finding, ...]
    """List the problems: errors, then warnings. Nodes with the same problem are named together."""
    unread: tuple[str, ...]
    reports: tuple[NodeReport, ...]
    """Full reports of the nodes that were asked for."""

    @property
    def is_healthy(self) -> bool:
        return not self.problems and not self.unread


def summarize(cluster: ClusterSnapshot, names: Collection[str] = ()) -> ClusterStatus:
    """Return the status of all nodes, or of those with these `names`."""
    states = cluster.states
    nodes = tuple(_nodes(cluster, states))
    shown = tuple(row for row in nodes if not names or row.node in names)
    kubes = tuple(_dynakube(kube, states.values()) for kube in cluster.dynakubes)
    problems = tuple(_problems(cluster, states, shown, kubes))
    return ClusterStatus(
        cluster.taken_at,
        cluster.namespace,
        installation.state(cluster),
        _summary(cluster, nodes, len(problems)),
        tuple(_components(cluster)),
        shown,
        kubes,
        problems,
        tuple(cluster.unread.values()),
        cluster.reports,
    )


def to_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the JSON form."""
    reports = [node_reports.to_json(report) for report in status.reports]
    fields = dataclasses.asdict(dataclasses.replace(status, reports=()))
    fields |= node_report.with_times({"taken_at": status.taken_at})
    return {"format": JSON_FORMAT, "healthy": status.is_healthy} | fields | {"reports": reports}


def _summary(cluster: ClusterSnapshot, nodes: Iterable[NodeRow], failures: int) -> Summary:
    eligible = _eligible_nodes(cluster)
    own = [row for row in nodes if row.node in eligible]
    versions = collections.Counter(version for row in own for version in row.versions)
    labels = [k8s_objects.labels(namespace).get(namespace_mapping.LABEL) for namespace in cluster.namespaces]
    return Summary(
        len(own),
        sum(row.driver == "ready" and not row.problems for row in own),
        dict(versions.most_common()),
        len(labels),
        sum(map(bool, labels)),
        failures,
    )


def _components(cluster: ClusterSnapshot) -> Iterator[ComponentRow]:
    for name in (snapshot.OPERATOR, snapshot.WEBHOOK):
        deployment = cluster.deployment(name)
        yield _component(name, deployment, (deployment or {}).get("spec", {}).get("replicas", 1), "readyReplicas")
    daemon_set = cluster.daemon_set
    status = k8s_objects.status(daemon_set) if daemon_set else {}
    yield _component(snapshot.DRIVER, daemon_set, int(status.get("desiredNumberScheduled", 0)), "numberReady")


def _component(name: str, workload: Object | None, desired: int, key: str) -> ComponentRow:
    component = name.removeprefix("oneagent-").replace("csi-driver", "driver")
    if workload is None:
        return ComponentRow(component, "", 0, 0, "")
    ready = int(k8s_objects.status(workload).get(key, 0))
    return ComponentRow(component, str(workload["kind"]), ready, desired, k8s_objects.release(workload))


def _problems(
    cluster: ClusterSnapshot,
    states: Mapping[str, node_lease.NodeReport],
    nodes: Iterable[NodeRow],
    kubes: Iterable[DynaKubeRow],
) -> Iterator[Finding]:
    report = checks.run_checks(cluster, [check for check in checks.CHECKS if check.name in _CHECKS])
    found = [finding for finding in report.findings if finding.check != "Unread" and finding.severity != Severity.NOTE]
    failures = failed_versions.FailedVersions(cluster, states)
    by_problem: dict[str, list[str]] = {}
    for row in nodes:
        for problem in row.problems:
            if not failures.add(row.node, problem):
                by_problem.setdefault(problem, []).append(row.node)
    found = [*failures.without_repeats(found), *failures.findings(_named)]
    for problem, names in sorted(by_problem.items(), key=lambda item: -len(item[1])):
        remedy = _next_look(cluster, names[0])
        found.append(error("Nodes", f"{_named(names)}: {problem}", remedy))
    explaining = ("DynaKubes", "Tokens", "Deletion", "Nodes")
    explained = " ".join(finding.sentence for finding in found if finding.check in explaining)
    is_installed = installation.state(cluster) == installation.INSTALLED
    for kube in kubes if is_installed else ():
        if not kube.ready and (named := agents.describe_object(kube.name)) not in explained:
            describe = f"kubectl -n {cluster.namespace} describe {k8s_objects.resource(kube.name)}"
            found.append(warning("DynaKubes", f"{named} is not ready: {kube.message}", describe))
    severities = tuple(Severity)
    yield from sorted(found, key=lambda finding: severities.index(finding.severity))


def _next_look(cluster: ClusterSnapshot, node: str) -> str:
    """Return what to do on a node: about a driver that is missing or fails, or where to see what the node reports."""
    pod = cluster.drivers.get(node)
    if pod is None:
        return doctor_nodes.why_no_pod(cluster)
    return k8s_objects.next_look(pod) if k8s_objects.has_failed(pod) else f"kubectl oneagent doctor --node={node}"


def _named(names: list[str]) -> str:
    if len(names) == 1:
        return f"node {names[0]}"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{len(names)} nodes ({', '.join(names[:_MOST_NAMED])}{more})"


def _nodes(cluster: ClusterSnapshot, states: Mapping[str, node_lease.NodeReport]) -> Iterator[NodeRow]:
    registered = {
        k8s_objects.name(node)
        for node in cluster.csi_nodes
        if any(driver["name"] == identifiers.DRIVER_NAME for driver in node["spec"].get("drivers") or ())
    }
    pods, reports = cluster.drivers, {report.node: report for report in cluster.reports}
    eligible = _eligible_nodes(cluster)
    objects = {k8s_objects.name(node): node for node in cluster.nodes}
    for node in sorted(objects.keys() | pods.keys()):
        pod, report = pods.get(node), reports.get(node)
        state = _driver_state(pod, cluster.taken_at)
        is_down = node in objects and not k8s_objects.has_condition(objects[node], "Ready")
        if is_down and node in eligible:
            problems = ["the node itself is not ready"]
        else:
            problems = [*_node_problems(state, pod, node in registered, report, is_eligible=node in eligible)]
            if pod is not None and state == "ready":
                age = k8s_objects.age_seconds(pod["metadata"].get("creationTimestamp"), cluster.taken_at)
                problems += _reported_problems(states.get(node), cluster.taken_at, age)
        yield _row(node, state, node in registered, states.get(node), report, tuple(problems))


def _driver_state(pod: Object | None, now: float) -> str:
    if pod is None:
        return "none"
    if k8s_objects.is_deleting(pod):
        return "terminating"
    if k8s_objects.is_ready(pod):
        return "ready"
    age = k8s_objects.age_seconds(pod["metadata"].get("creationTimestamp"), now)
    is_young = 0 < age < _STARTING_SECONDS and not list(k8s_objects.container_problems(pod))
    return "starting" if is_young else "not ready"


def _eligible_nodes(cluster: ClusterSnapshot) -> frozenset[str]:
    """Return the nodes that the DaemonSet selects: not those of Windows, for example."""
    if cluster.csi_driver is None or cluster.daemon_set is None:
        return frozenset()
    selector = cluster.daemon_set.get("spec", {}).get("template", {}).get("spec", {}).get("nodeSelector") or {}
    return frozenset(
        k8s_objects.name(node) for node in cluster.nodes if selector.items() <= k8s_objects.labels(node).items()
    )


def _node_problems(
    state: str, pod: Object | None, registered: bool, report: NodeReport | None, *, is_eligible: bool
) -> Iterator[str]:
    if pod is None:
        if is_eligible:
            yield "no pod of the driver"
        return
    if state == "not ready":
        yield f"the driver is not ready: {_unready(pod)}"
    if state == "ready" and not registered:
        yield "the driver is not registered with kubelet"
    if report is not None:
        yield from [report.problem] if report.status is None else report.problems


def _unready(pod: Object) -> str:
    statuses = k8s_objects.status(pod).get("containerStatuses") or ()
    count = (
        f"{sum(bool(one.get('ready')) for one in statuses)} of {len(pod['spec']['containers'])} containers are ready"
    )
    return "; ".join([count, *k8s_objects.explain_unready(pod)])


def _reported_problems(reported: node_lease.NodeReport | None, now: float, age_seconds: float) -> Iterator[str]:
    """Yield what a node's Lease says of versions that are not there, and of recent corruption."""
    if reported is None:
        if not 0 < age_seconds < _STARTING_SECONDS:
            yield "no report: the driver is of an older release, or can't write its Lease"
        return
    for kube in reported.dynakubes:
        if kube.state in node_lease.PROBLEMS:
            yield failed_versions.describe(kube)
    for one in reported.corruptions:
        if now - one.at < _RECENT_SECONDS:
            yield f"version {one.version} was found corrupt: {one.message}"


def _row(
    node: str,
    state: str,
    registered: bool,
    reported: node_lease.NodeReport | None,
    report: NodeReport | None,
    problems: tuple[str, ...],
) -> NodeRow:
    status = report.status if report is not None else None
    if status is None:
        ready = (kube.version for kube in (reported.dynakubes if reported else ()) if kube.state == "ready")
        return NodeRow(node, state, registered, tuple(dict.fromkeys(ready)), None, None, None, problems)
    versions = tuple(identifiers.agent_version(row.version) for row in status.versions if row.state == "ready")
    views = sum(row.mounted is True for row in status.volumes)
    free = status.disk.free_bytes if status.disk is not None else None
    return NodeRow(node, state, registered, versions, views, len(status.failures), free, problems)


def _dynakube(kube: Object, reports: Iterable[node_lease.NodeReport]) -> DynaKubeRow:
    status = k8s_objects.status(kube)
    modes: list[str] = []
    if agents.kind_of_object(k8s_objects.name(kube)) == "DynaKube":  # The modes of others are of the driver alone.
        modes = sorted(((kube.get("spec") or {}).get("oneAgent") or {}).keys() - {"hostGroup"})
    version = (status.get("codeModules") or {}).get("version") or (status.get("oneAgent") or {}).get("version") or ""
    ready = k8s_objects.conditions(kube).get("Ready", {})
    message = "" if ready.get("status") == "True" else str(ready.get("message", "not reconciled yet"))
    if k8s_objects.is_deleting(kube):
        message = "is being deleted"
    name, is_ready = k8s_objects.name(kube), ready.get("status") == "True" or k8s_objects.is_deleting(kube)
    states = collections.Counter(own.state for report in reports for own in report.dynakubes if own.name == name)
    return DynaKubeRow(name, ", ".join(modes), version, is_ready, message, dict(states), agents.object_path(name))
