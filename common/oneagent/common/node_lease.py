"""The Lease of a node: the state of each DynaKube's version there, in a few hundred bytes.

The provisioner writes it when a state changes, and once an hour otherwise. The operator and `kubectl oneagent` get all
nodes from one list. Of 5,000 nodes a list has about 6 MiB, and an hour without a change about 1.4 writes a second.

It is a Lease because that kind is built in, small, and deleted with the driver's pod, which owns it. A policy of the
chart allows each node its own one only. Events would be forgotten after an hour, a patch of the Node or of the pod
takes rights that nodes must not have, and metrics take a way from the operator to each node.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from oneagent.common import node_report

LABELS: Final = {"app.kubernetes.io/name": "oneagent-csi", "app.kubernetes.io/component": "node-report"}
SELECTOR: Final = ",".join(f"{key}={value}" for key, value in LABELS.items())
PREFIX: Final = "oneagent-node."
"""Of the Lease's name, before that of the node."""
ANNOTATION: Final = "oneagent.dynatrace.com/node-report"
REFRESH_SECONDS: Final = 3600.0
"""Interval of writes without a change."""

State = Literal["ready", "pending", "failed", "refused"]
PROBLEMS: Final = frozenset({"failed", "refused"})
"""States that an administrator has to look at."""

_LONGEST_MESSAGE: Final = 300
_MOST_DYNAKUBES: Final = 100
_MOST_CORRUPTIONS: Final = 5


@dataclass(frozen=True, slots=True)
class DynaKubeReport:
    """The version of a DynaKube on a node; `message` has the reason why it is not there."""

    name: str
    version: str
    """Empty while it is not known."""
    state: str
    """A `State`"""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Corruption:
    """A version that was found corrupt, and removed to be installed again."""

    version: str
    at: int
    """Seconds since the epoch."""
    message: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A reader ignores fields that it does not know, and takes those that it can't read as empty."""

    dynakubes: tuple[DynaKubeReport, ...] = ()
    corruptions: tuple[Corruption, ...] = ()

    def bounded(self) -> NodeReport:
        """Return it without what would make the Lease large."""
        kubes = tuple(
            dataclasses.replace(kube, message=kube.message[:_LONGEST_MESSAGE])
            for kube in self.dynakubes[:_MOST_DYNAKUBES]
        )
        found = tuple(
            dataclasses.replace(one, message=one.message[:_LONGEST_MESSAGE])
            for one in self.corruptions[-_MOST_CORRUPTIONS:]
        )
        return NodeReport(kubes, found)


def lease_name(node: str) -> str:
    return f"{PREFIX}{node}"


def manifest(node: str, namespace: str, report: NodeReport, owner: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the Lease to apply; `owner` is the reference to the driver's pod."""
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    metadata: dict[str, Any] = {
        "name": lease_name(node),
        "namespace": namespace,
        "labels": LABELS,
        "annotations": {ANNOTATION: json.dumps(dataclasses.asdict(report.bounded()), separators=(",", ":"))},
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": int(REFRESH_SECONDS * 2),
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def read(lease: Mapping[str, Any]) -> tuple[str, NodeReport]:
    """Return a node and its report, which is empty if it cannot be read."""
    node = str((lease.get("spec") or {}).get("holderIdentity") or "")
    text = str((lease["metadata"].get("annotations") or {}).get(ANNOTATION) or "{}")
    try:
        return node, node_report.read(NodeReport, json.loads(text))
    except (ValueError, RecursionError):
        return node, NodeReport()
