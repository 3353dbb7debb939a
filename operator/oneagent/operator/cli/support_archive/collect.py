"""Contents of a support archive. Unreadable parts are listed in it; the others are still collected."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import yaml

from oneagent.common import distribution, node_lease, node_report
from oneagent.common.injection import contract
from oneagent.common.kubernetes import fields
from oneagent.operator.cli import doctor, k8s_objects, kubectl, node_reports, status, why
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.support_archive import Archive, redaction, report_page
from oneagent.operator.cli.why import collect, diagnose

ReportProgress = Callable[[str], None]

PARTS: Final = (
    *("definition", "mutating", "validating", "csi_driver"),
    *("deployments", "daemon_sets", "dynakubes"),
)
"""Fields of the snapshot that are added as a whole."""
_MORE: Final = ("services", "endpointslices", "networkpolicies", "poddisruptionbudgets", "replicasets")
"""Kinds in the installation's namespace."""
_ROLES: Final = ("oneagent-operator", "oneagent-webhook", "oneagent-csi-driver")
_LINES: Final = 20_000
_MOST_NODES: Final = 100
"""Limit of nodes, if no node has a driver."""
_MOST_PODS: Final = 20
"""Limit of pods that are diagnosed because a node reports them as failed."""


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """Options of the command line."""

    pods: tuple[tuple[str, str], ...] = ()
    """Pods to diagnose, by namespace and name."""
    log_bytes: int = 2 << 20
    """Limit of each log, of which the end is kept."""


def collect_archive(
    archive: Archive,
    client: Kubectl,
    cluster: ClusterSnapshot,
    options: ArchiveOptions,
    report_progress: ReportProgress,
) -> None:
    """Read everything and add it to the archive."""
    archive.problems += cluster.unread.values()
    chosen = frozenset(report.node for report in cluster.reports)
    pods = [pod for pod in cluster.pods if _is_chosen(pod, chosen)]
    archive.add("about.json", _json(_environment(client, cluster)))
    _add_report(archive, cluster)
    archive.add("secrets.json", _json({name: sorted(keys) for name, keys in cluster.secrets.items()}))
    states = {node: dataclasses.asdict(state) for node, state in sorted(cluster.states.items())}
    archive.add("nodes.json", _json(states))
    for part in PARTS:
        archive.add(f"objects/{part}.yaml", _yaml(_as_list(getattr(cluster, part))))
    archive.add("objects/pods.yaml", _yaml(pods))
    for part, found in (("nodes", cluster.nodes), ("csi_nodes", cluster.csi_nodes)):
        own = [one for one in found if k8s_objects.name(one) in chosen] if chosen else list(found[:_MOST_NODES])
        archive.add(f"objects/{part}.yaml", _yaml(own))
    labels = [{"name": k8s_objects.name(one), "labels": k8s_objects.labels(one)} for one in cluster.namespaces]
    archive.add("objects/namespaces.yaml", _yaml(labels))
    report_progress("objects")
    _more_objects(archive, client, report_progress)
    for report in cluster.reports:
        archive.add(f"nodes/{report.node}/status.json", _json(node_reports.to_json(report)))
    _logs(archive, client, pods, options.log_bytes, report_progress)
    _pods(archive, client, cluster, options, report_progress)
    archive.add_problems()


def _add_report(archive: Archive, cluster: ClusterSnapshot) -> None:
    """Add what doctor and status say. A defect in status is a missing part, like what can't be read."""
    report = checks.run_checks(cluster)
    archive.add("doctor.json", _json(doctor.to_json(report)))
    taken_at = datetime.datetime.fromtimestamp(cluster.taken_at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        summary = status.summarize(cluster)
        archive.add("status.json", _json(status.to_json(summary)))
        archive.add("report.html", report_page.render(summary, report, taken_at))
    except Exception as defect:  # noqa: BLE001 - an archive without these parts is better than none
        archive.problems.append(f"status.json, report.html: {type(defect).__name__}: {defect}")


def _is_chosen(pod: Object, nodes: frozenset[str]) -> bool:
    """Return False for a driver's pod on a node whose report was not read; there may be thousands."""
    is_driver = k8s_objects.labels(pod).get(k8s_objects.COMPONENT) == node_reports.COMPONENT
    return not is_driver or not k8s_objects.node(pod) or k8s_objects.node(pod) in nodes


def count_steps(cluster: ClusterSnapshot, options: ArchiveOptions) -> int:
    """Return the number of steps that `collect_archive` reports."""
    chosen = frozenset(report.node for report in cluster.reports)
    logs = len(list(_logs_to_read(pod for pod in cluster.pods if _is_chosen(pod, chosen))))
    return 1 + len(_MORE) + 5 + logs + len(_pods_to_diagnose(cluster, options))


def _environment(client: Kubectl, cluster: ClusterSnapshot) -> dict[str, Any]:
    taken_at = node_report.with_times({"taken_at": cluster.taken_at})
    return {
        "format": 1, "command": distribution.version(), "namespace": client.namespace, **taken_at,
        "kubernetes": cluster.version,
    }  # fmt: skip


def _more_objects(archive: Archive, client: Kubectl, report_progress: ReportProgress) -> None:
    readers: dict[str, Callable[[], Iterable[Any]]] = {kind: partial(client.list_own, kind) for kind in _MORE}
    readers["configmaps"] = lambda: map(redaction.keys_only, client.list_own("configmaps"))
    # Those of nodes are in nodes.json.
    component = f"{k8s_objects.COMPONENT}!={node_lease.LABELS[k8s_objects.COMPONENT]}"
    readers["leases"] = lambda: client.list_own("leases", f"--selector={component}")
    readers["clusterroles"] = lambda: filter(None, (client.get("clusterroles", role) for role in _ROLES))
    readers["events"] = lambda: client.list_own("events")
    empty_views = f"--field-selector=reason={contract.AGENT_NOT_MOUNTED}"
    readers["events-of-empty-views"] = lambda: client.list_objects("events", "--all-namespaces", empty_views)
    with kubectl.thread_pool() as pool:
        found = {name: pool.submit(lambda ask: list(ask()), ask) for name, ask in readers.items()}
        for name, future in found.items():
            directory = "" if name.startswith("events") else "objects/"
            try:
                archive.add(f"{directory}{name}.yaml", _yaml(future.result()))
            except KubectlError as error:
                archive.problems.append(str(error))
            report_progress(name)


def _logs_to_read(pods: Iterable[Object]) -> Iterator[tuple[str, str, bool]]:
    """Return pod, container, and True for the log of the container's previous run."""
    for pod in pods:
        container_statuses = k8s_objects.container_statuses(pod)
        for container in k8s_objects.containers(pod):
            yield k8s_objects.name(pod), container, False
            if container_statuses.get(container, {}).get("restartCount"):
                yield k8s_objects.name(pod), container, True


def _logs(
    archive: Archive, client: Kubectl, pods: Iterable[Object], limit_bytes: int, report_progress: ReportProgress
) -> None:
    def read(log: tuple[str, str, bool]) -> tuple[str, str | KubectlError]:
        pod, container, previous = log
        if archive.is_full:
            return f"logs/{pod}/{container}.log", ""
        arguments = ["logs", "-n", client.namespace, pod, "-c", container, f"--tail={_LINES}", "--timestamps"]
        name = f"logs/{pod}/{container}{'.previous' if previous else ''}.log"
        try:
            return name, client.tail(limit_bytes, *arguments, *(["--previous"] if previous else [])).decode(
                errors="replace"
            )
        except KubectlError as error:
            return name, error

    with kubectl.thread_pool() as pool:
        for name, found in pool.map(read, _logs_to_read(pods)):
            if isinstance(found, KubectlError):
                archive.problems.append(str(found))
            else:
                archive.add(name, found)
            report_progress(name)


def _pods_to_diagnose(cluster: ClusterSnapshot, options: ArchiveOptions) -> list[tuple[str, str]]:
    """Return the pods of the command line, and those that nodes report as failed."""
    statuses = (one.status for one in cluster.reports if one.status is not None)
    failed = [(failure.namespace, failure.pod) for found in statuses for failure in found.failures]
    # Reports of nodes become arguments of kubectl and names in the archive: these must be no flags and no paths.
    failed = [pod for pod in failed if all(map(fields.is_dns_name, pod))]
    return list(dict.fromkeys((*options.pods, *failed[:_MOST_PODS])))


def _pods(
    archive: Archive,
    client: Kubectl,
    cluster: ClusterSnapshot,
    options: ArchiveOptions,
    report_progress: ReportProgress,
) -> None:
    for namespace, pod in _pods_to_diagnose(cluster, options):
        found = collect.collect_evidence(client, namespace, pod, now=cluster.taken_at)
        archive.problems += found.unread
        archive.add(f"why/{namespace}/{pod}.json", _json(why.to_json(found, diagnose.diagnose(found))))
        report_progress(f"{namespace}/{pod}")


def _as_list(part: Object | tuple[Object, ...] | None) -> list[Object]:
    if part is None:
        return []
    return list(part) if isinstance(part, tuple) else [part]


def _json(obj: Any) -> str:
    return json.dumps(redaction.redact(obj), indent=2) + "\n"


def _yaml(obj: list[Any]) -> str:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(redaction.redact(obj), Dumper=dumper, sort_keys=False))
