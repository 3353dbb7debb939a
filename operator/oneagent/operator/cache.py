"""Objects of the cluster as the watches report them: enough to decide from.

Of objects that may be many only the fields that decisions need are stored. Everything belongs to the event loop's
thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from oneagent.common.identifiers import DynaKubeName
from oneagent.common.node_lease import NodeReport
from oneagent.operator.api import Object

KUBE_SYSTEM = "kube-system"


@dataclass(frozen=True, slots=True)
class Namespace:
    labels: Mapping[str, str]
    terminating: bool
    version: int = 0
    """The resource version; of two states the greater one is newer."""
    uid: str = ""


def version(manifest: Mapping[str, object]) -> int:
    """The resource version as a number, which orders the states of one object (KEP-5504); 0 if there is none."""
    metadata = manifest.get("metadata")
    text = str(metadata.get("resourceVersion", "")) if isinstance(metadata, Mapping) else ""
    return int(text) if text.isdecimal() else 0


def namespace(manifest: Mapping[str, object]) -> Namespace:
    metadata = manifest["metadata"]
    assert isinstance(metadata, Mapping)
    uid = str(metadata.get("uid", ""))
    return Namespace(metadata.get("labels") or {}, "deletionTimestamp" in metadata, version(manifest), uid)


@dataclass(slots=True)
class Cache:
    dynakubes: dict[DynaKubeName, Object] = field(default_factory=dict)
    """In the newest version."""
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    nodes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Their labels."""
    daemon_sets: dict[str, Object] = field(default_factory=dict)
    """Of the own namespace."""
    agent_pods: dict[str, Object] = field(default_factory=dict)
    """Host agents' pods in the own namespace, with the fields that a rollout's progress needs."""
    driver_pods: dict[str, Object] = field(default_factory=dict)
    """The node driver's pods, with the fields that the startup taint needs; empty without it."""
    node_reports: dict[str, NodeReport] = field(default_factory=dict)
    """By the name of the node's Lease."""
    cluster_id: str = ""
    """The UID of the namespace `kube-system`, which stands for the cluster's identity."""
    csi_installed: bool = False
