"""What is in a support archive, and how it is come by. What can't be had is listed in it, and stops nothing."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import yaml

from oneagent.common import identifiers
from oneagent.common.kubernetes import fields
from oneagent.operator.cli import doctor, k8s_objects, kubectl, node_reports, why
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.support_archive import Archive, redaction
from oneagent.operator.cli.why import collect, diagnose

ReportProgress = Callable[[str], None]

PARTS: Final = (
    *("definition", "mutating", "validating", "csi_driver", "csi_nodes", "nodes"),
    *("deployments", "daemon_sets", "pods", "dynakubes"),
)
"""Of the picture, as they are."""
_MORE: Final = ("services", "endpointslices", "leases", "networkpolicies", "poddisruptionbudgets", "replicasets")
"""Of the product's namespace."""
_ROLES: Final = ("oneagent-operator", "oneagent-webhook", "oneagent-csi-driver")
_LINES: Final = 20_000
_MOST_PODS: Final = 20
"""Pods that nodes name as failed, and that are looked at one by one."""


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """What the user says of it."""

    pods: tuple[tuple[str, str], ...] = ()
    """By namespace and name: those that are looked at one by one in any case."""
    log_bytes: int = 2 << 20
    """The most of each log: its end."""


def fill(
    archive: Archive, client: Kubectl, cluster: ClusterSnapshot, wanted: ArchiveOptions, report_progress: ReportProgress
) -> None:
    """All of it."""
    archive.problems += cluster.unread.values()
    archive.add("about.json", _json(_about(client, cluster)))
    archive.add("doctor.json", _json(doctor.to_json(checks.run_checks(cluster))))
    archive.add("secrets.json", _json({name: sorted(keys) for name, keys in cluster.secrets.items()}))
    for part in PARTS:
        archive.add(f"objects/{part}.yaml", _yaml(_listed(getattr(cluster, part))))
    labels = [{"name": k8s_objects.name(one), "labels": k8s_objects.labels(one)} for one in cluster.namespaces]
    archive.add("objects/namespaces.yaml", _yaml(labels))
    report_progress("objects")
    _more_objects(archive, client, report_progress)
    for report in cluster.answers:
        archive.add(f"nodes/{report.node}/status.json", _json(node_reports.to_json(report)))
    _logs(archive, client, cluster.pods, wanted.log_bytes, report_progress)
    _pods(archive, client, cluster, wanted, report_progress)
    if archive.problems:
        archive.add("problems.txt", "".join(f"{problem}\n" for problem in archive.problems))


def steps(cluster: ClusterSnapshot, wanted: ArchiveOptions) -> int:
    """How often `fill` is going to tell."""
    logs = len(list(_wanted_logs(cluster.pods)))
    return 1 + len(_MORE) + 4 + logs + len(_chosen(cluster, wanted))


def _about(client: Kubectl, cluster: ClusterSnapshot) -> dict[str, Any]:
    try:
        own = importlib.metadata.version(identifiers.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "format": 1, "command": own, "namespace": client.namespace, "taken_at": cluster.taken_at,
        "kubernetes": cluster.version,
    }  # fmt: skip


def _more_objects(archive: Archive, client: Kubectl, report_progress: ReportProgress) -> None:
    asked: dict[str, Callable[[], Iterable[Any]]] = {kind: partial(client.list_own, kind) for kind in _MORE}
    asked["configmaps"] = lambda: map(redaction.keys_only, client.list_own("configmaps"))
    asked["clusterroles"] = lambda: filter(None, (client.get("clusterroles", role) for role in _ROLES))
    asked["events"] = lambda: client.list_own("events")
    empty_views = f"--field-selector=reason={identifiers.AGENT_NOT_MOUNTED}"
    asked["events-of-empty-views"] = lambda: client.list_objects("events", "--all-namespaces", empty_views)
    with kubectl.thread_pool() as pool:
        found = {name: pool.submit(lambda ask: list(ask()), ask) for name, ask in asked.items()}
        for name, asking in found.items():
            folder = "" if name.startswith("events") else "objects/"
            try:
                archive.add(f"{folder}{name}.yaml", _yaml(asking.result()))
            except KubectlError as error:
                archive.problems.append(str(error))
            report_progress(name)


def _wanted_logs(pods: Iterable[Object]) -> Iterator[tuple[str, str, bool]]:
    """Pod, container, and whether it is the log of the container's last run before this one."""
    for pod in pods:
        states = k8s_objects.states(pod)
        for container in k8s_objects.containers(pod):
            yield k8s_objects.name(pod), container, False
            if states.get(container, {}).get("restartCount"):
                yield k8s_objects.name(pod), container, True


def _logs(
    archive: Archive, client: Kubectl, pods: Iterable[Object], limit_bytes: int, report_progress: ReportProgress
) -> None:
    def read(wanted: tuple[str, str, bool]) -> tuple[str, str | KubectlError]:
        pod, container, previous = wanted
        arguments = ["logs", "-n", client.namespace, pod, "-c", container, f"--tail={_LINES}", "--timestamps"]
        name = f"logs/{pod}/{container}{'.previous' if previous else ''}.log"
        try:
            return name, client.tail(limit_bytes, *arguments, *(["--previous"] if previous else [])).decode(
                errors="replace"
            )
        except KubectlError as error:
            return name, error

    with kubectl.thread_pool() as pool:
        for name, found in pool.map(read, _wanted_logs(pods)):
            if isinstance(found, KubectlError):
                archive.problems.append(str(found))
            else:
                archive.add(name, found)
            report_progress(name)


def _chosen(cluster: ClusterSnapshot, wanted: ArchiveOptions) -> list[tuple[str, str]]:
    """Those that the user names, and those that nodes name as failed."""
    statuses = (report.status for report in cluster.answers if report.status is not None)
    failed = [(failure.namespace, failure.pod) for status in statuses for failure in status.failures]
    # What a node says becomes arguments of kubectl, and names in the archive: a flag or a path must not get there.
    failed = [pod for pod in failed if all(map(fields.is_dns_name, pod))]
    return list(dict.fromkeys((*wanted.pods, *failed[:_MOST_PODS])))


def _pods(
    archive: Archive, client: Kubectl, cluster: ClusterSnapshot, wanted: ArchiveOptions, report_progress: ReportProgress
) -> None:
    for namespace, pod in _chosen(cluster, wanted):
        found = collect.collect_evidence(client, namespace, pod, now=cluster.taken_at)
        archive.problems += found.unread
        archive.add(f"why/{namespace}/{pod}.json", _json(why.to_json(found, diagnose.diagnose(found))))
        report_progress(f"{namespace}/{pod}")


def _listed(part: Object | tuple[Object, ...] | None) -> list[Object]:
    if part is None:
        return []
    return list(part) if isinstance(part, tuple) else [part]


def _json(of: Any) -> str:
    return json.dumps(redaction.tree(of), indent=2) + "\n"


def _yaml(of: list[Any]) -> str:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(redaction.tree(of), Dumper=dumper, sort_keys=False))
