"""The whole cluster in two tables: what each node has, and how each DynaKube does.

A node is asked in its driver's pod. One without, or that does not answer, has its row all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.node_reports import NodeAnswer
from oneagent.operator.cli.snapshot import Cluster

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""
FIELDS: Final = frozenset({"nodes", "csi_nodes", "pods", "dynakubes", "csi_driver", "daemon_sets"})
"""What has to be read of a cluster."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Numbers are None where the node was not asked, or did not answer."""

    node: str
    driver: str
    """`ready`, `not ready`, or `none`"""
    registered: bool
    versions: tuple[str, ...]
    """Those that are ready in the store"""
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
class Status:
    nodes: tuple[NodeRow, ...]
    dynakubes: tuple[DynaKubeRow, ...]
    unread: tuple[str, ...]
    answers: tuple[NodeAnswer, ...]
    """Each node's own word, whole."""

    @property
    def well(self) -> bool:
        rows = all(not row.problems for row in self.nodes) and all(row.ready for row in self.dynakubes)
        return rows and not self.unread


def of(picture: Cluster) -> Status:
    return Status(
        tuple(_nodes(picture)),
        tuple(map(_dynakube, picture.dynakubes)),
        tuple(picture.unread.values()),
        picture.answers,
    )


def as_json(status: Status) -> dict[str, Any]:
    """The form for programs."""
    return {"format": JSON_FORMAT} | dataclasses.asdict(status)


def _nodes(picture: Cluster) -> Iterator[NodeRow]:
    registered = {
        k8s_objects.name(node)
        for node in picture.csi_nodes
        if any(one["name"] == identifiers.DRIVER_NAME for one in node["spec"].get("drivers") or ())
    }
    pods, answers = picture.drivers, {answer.node: answer for answer in picture.answers}
    meant = _meant(picture)
    for node in sorted({k8s_objects.name(node) for node in picture.nodes} | pods.keys()):
        pod, answer = pods.get(node), answers.get(node)
        state = "none" if pod is None else "ready" if k8s_objects.is_ready(pod) else "not ready"
        problems = list(_problems(state, node in registered, answer, wanted=node in meant))
        yield _row(node, state, node in registered, answer, tuple(problems))


def _meant(picture: Cluster) -> frozenset[str]:
    """The nodes that the driver is for: not those of Windows, for example."""
    if picture.csi_driver is None:
        return frozenset()
    chosen = (picture.daemon_set or {}).get("spec", {}).get("template", {}).get("spec", {}).get("nodeSelector") or {}
    return frozenset(
        k8s_objects.name(node) for node in picture.nodes if chosen.items() <= k8s_objects.labels(node).items()
    )


def _problems(state: str, registered: bool, answer: NodeAnswer | None, *, wanted: bool) -> Iterator[str]:
    if state == "none":
        if wanted:
            yield "no pod of the driver"
        return
    if state == "ready" and not registered:
        yield "kubelet does not know the driver"
    if answer is not None:
        yield from [answer.problem] if answer.status is None else answer.problems


def _row(node: str, state: str, registered: bool, answer: NodeAnswer | None, problems: tuple[str, ...]) -> NodeRow:
    told: Mapping[str, Any] | None = answer.status if answer is not None else None
    if told is None:
        return NodeRow(node, state, registered, (), None, None, None, problems)
    versions = tuple(row["version"] for row in told.get("versions") or () if row.get("state") == "ready")
    views = sum(row.get("mounted") is True for row in told.get("volumes") or ())
    free = (told.get("disk") or {}).get("free_bytes")
    return NodeRow(node, state, registered, versions, views, len(told.get("failures") or ()), free, problems)


def _dynakube(kube: Object) -> DynaKubeRow:
    told = k8s_objects.status(kube)
    modes = sorted(((kube.get("spec") or {}).get("oneAgent") or {}).keys() - {"hostGroup"})
    version = (told.get("codeModules") or {}).get("version") or (told.get("oneAgent") or {}).get("version") or ""
    ready = k8s_objects.conditions(kube).get("Ready", {})
    message = "" if ready.get("status") == "True" else str(ready.get("message", "not looked at yet"))
    return DynaKubeRow(k8s_objects.name(kube), ", ".join(modes), version, ready.get("status") == "True", message)
