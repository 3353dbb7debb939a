"""Versions of this command and of the components in the cluster."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import terminal
from oneagent.common.terminal import Column, Screen
from oneagent.operator.cli import k8s_objects, node_reports, snapshot
from oneagent.operator.cli.kubectl import Kubectl

JSON_FORMAT: Final = 1
_FIELDS: Final = ("deployments", "pods", "version")
_COLUMNS: Final = (Column("component"), Column("version"))


@dataclass(frozen=True, slots=True)
class Versions:
    """Empty where a component is not installed, or its image has no tag."""

    plugin: str
    operator: str
    webhook: str
    drivers: Mapping[str, int]
    """Nodes by version of their driver."""
    kubernetes: str
    unread: tuple[str, ...]


def read(client: Kubectl, plugin: str) -> Versions:
    """Read the versions; `KubectlUnusableError` without access to the cluster."""
    cluster = snapshot.read(client, 0.0, only=_FIELDS, probes=False)
    operator, webhook = map(cluster.deployment, (snapshot.OPERATOR, snapshot.WEBHOOK))
    drivers = collections.Counter(
        k8s_objects.release(pod) or "unknown" for pod in node_reports.driver_pods(cluster.pods).values()
    )
    return Versions(
        plugin,
        k8s_objects.release(operator) if operator else "",
        k8s_objects.release(webhook) if webhook else "",
        dict(drivers.most_common()),
        str((cluster.version.get("serverVersion") or {}).get("gitVersion", "")),
        tuple(cluster.unread.values()),
    )


def to_json(versions: Versions) -> dict[str, Any]:
    return {"format": JSON_FORMAT} | dataclasses.asdict(versions)


def lines(versions: Versions, screen: Screen) -> Iterator[str]:
    drivers = [f"{version} on {nodes} node{'s' * (nodes != 1)}" for version, nodes in versions.drivers.items()]
    absent = "unknown" if versions.unread else "not installed"
    rows = (
        ("plugin", versions.plugin),
        ("operator", versions.operator or absent),
        ("webhook", versions.webhook or absent),
        ("drivers", ", ".join(drivers) or absent),
        ("Kubernetes", versions.kubernetes or "unknown"),
    )
    yield from terminal.table(_COLUMNS, rows, screen)
    for reason in versions.unread:
        yield from screen.wrap(f"can't be read: {reason}", "- ", "  ")
