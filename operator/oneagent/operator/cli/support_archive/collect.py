"""What is in a support archive, and how it is come by. What can't be had is listed in it, and stops nothing."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import yaml

from oneagent.common import identifiers
from oneagent.common.kubernetes import fields
from oneagent.operator.cli import doctor, k8s_objects, kubectl, why
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object
from oneagent.operator.cli.snapshot import Cluster
from oneagent.operator.cli.support_archive import Archive, redaction
from oneagent.operator.cli.why import collect, diagnose

Told = Callable[[str], None]

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
class Wanted:
    """What the user says of it."""

    pods: tuple[tuple[str, str], ...] = ()
    """By namespace and name: those that are looked at one by one in any case."""
    log_bytes: int = 2 << 20
    """The most of each log: its end."""


def fill(archive: Archive, to: Kubectl, picture: Cluster, wanted: Wanted, told: Told) -> None:
    """All of it."""
    archive.problems += picture.unread.values()
    archive.add("about.json", _json(_about(to, picture)))
    archive.add("doctor.json", _json(doctor.as_json(checks.judge(picture))))
    archive.add("secrets.json", _json({name: sorted(keys) for name, keys in picture.secrets.items()}))
    for part in PARTS:
        archive.add(f"objects/{part}.yaml", _yaml(_listed(getattr(picture, part))))
    labels = [{"name": k8s_objects.name(one), "labels": k8s_objects.labels(one)} for one in picture.namespaces]
    archive.add("objects/namespaces.yaml", _yaml(labels))
    told("objects")
    _more_objects(archive, to, told)
    for answer in picture.answers:
        archive.add(f"nodes/{answer.node}/status.json", _json(dataclasses.asdict(answer)))
    _logs(archive, to, picture.pods, wanted.log_bytes, told)
    _pods(archive, to, picture, wanted, told)
    if archive.problems:
        archive.add("problems.txt", "".join(f"{problem}\n" for problem in archive.problems))


def steps(picture: Cluster, wanted: Wanted) -> int:
    """How often `fill` is going to tell."""
    logs = len(list(_wanted_logs(picture.pods)))
    return 1 + len(_MORE) + 4 + logs + len(_chosen(picture, wanted))


def _about(to: Kubectl, picture: Cluster) -> dict[str, Any]:
    try:
        own = importlib.metadata.version(identifiers.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "format": 1, "command": own, "namespace": to.namespace, "taken_at": picture.taken_at,
        "kubernetes": picture.version,
    }  # fmt: skip


def _more_objects(archive: Archive, to: Kubectl, told: Told) -> None:
    asked: dict[str, Callable[[], Iterable[Any]]] = {kind: partial(to.own, kind) for kind in _MORE}
    asked["configmaps"] = lambda: map(redaction.keys_only, to.own("configmaps"))
    asked["clusterroles"] = lambda: filter(None, (to.get("clusterroles", role) for role in _ROLES))
    asked["events"] = lambda: to.own("events")
    empty_views = f"--field-selector=reason={identifiers.AGENT_NOT_MOUNTED}"
    asked["events-of-empty-views"] = lambda: to.every("events", "--all-namespaces", empty_views)
    with kubectl.all_at_once() as pool:
        found = {name: pool.submit(lambda ask: list(ask()), ask) for name, ask in asked.items()}
        for name, asking in found.items():
            folder = "" if name.startswith("events") else "objects/"
            try:
                archive.add(f"{folder}{name}.yaml", _yaml(asking.result()))
            except KubectlError as error:
                archive.problems.append(str(error))
            told(name)


def _wanted_logs(pods: Iterable[Object]) -> Iterator[tuple[str, str, bool]]:
    """Pod, container, and whether it is the log of the container's last run before this one."""
    for pod in pods:
        states = k8s_objects.states(pod)
        for container in k8s_objects.containers(pod):
            yield k8s_objects.name(pod), container, False
            if states.get(container, {}).get("restartCount"):
                yield k8s_objects.name(pod), container, True


def _logs(archive: Archive, to: Kubectl, pods: Iterable[Object], limit_bytes: int, told: Told) -> None:
    def read(wanted: tuple[str, str, bool]) -> tuple[str, str | KubectlError]:
        pod, container, previous = wanted
        arguments = ["logs", "-n", to.namespace, pod, "-c", container, f"--tail={_LINES}", "--timestamps"]
        name = f"logs/{pod}/{container}{'.previous' if previous else ''}.log"
        try:
            return name, to.tail(limit_bytes, *arguments, *(["--previous"] if previous else [])).decode(
                errors="replace"
            )
        except KubectlError as error:
            return name, error

    with kubectl.all_at_once() as pool:
        for name, found in pool.map(read, _wanted_logs(pods)):
            if isinstance(found, KubectlError):
                archive.problems.append(str(found))
            else:
                archive.add(name, found)
            told(name)


def _chosen(picture: Cluster, wanted: Wanted) -> list[tuple[str, str]]:
    """Those that the user names, and those that nodes name as failed."""
    failures = (one for answer in picture.answers for one in (answer.status or {}).get("failures") or ())
    failed = [(str(one.get("namespace")), str(one.get("pod"))) for one in failures]
    # What a node says becomes arguments of kubectl, and names in the archive: a flag or a path must not get there.
    failed = [pod for pod in failed if all(map(fields.is_dns_name, pod))]
    return list(dict.fromkeys((*wanted.pods, *failed[:_MOST_PODS])))


def _pods(archive: Archive, to: Kubectl, picture: Cluster, wanted: Wanted, told: Told) -> None:
    for namespace, pod in _chosen(picture, wanted):
        found = collect.look(to, namespace, pod, now=picture.taken_at)
        archive.problems += found.unread
        archive.add(f"why/{namespace}/{pod}.json", _json(why.as_json(found, diagnose.judge(found))))
        told(f"{namespace}/{pod}")


def _listed(part: Object | tuple[Object, ...] | None) -> list[Object]:
    if part is None:
        return []
    return list(part) if isinstance(part, tuple) else [part]


def _json(of: Any) -> str:
    return json.dumps(redaction.tree(of), indent=2) + "\n"


def _yaml(of: list[Any]) -> str:
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(redaction.tree(of), Dumper=dumper, sort_keys=False))
