"""What the watches have seen: as new as the API server's last word to us, and enough to decide from.

Of objects that may be many only what decisions need is kept. Everything belongs to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from oneagent.common.identifiers import DynaKubeName
from oneagent.operator.api import Object

KUBE_SYSTEM = "kube-system"


@dataclass(frozen=True, slots=True)
class Namespace:
    labels: Mapping[str, str]
    terminating: bool
    version: int = 0
    """The API server's; of two states the one with the greater is the newer."""


def version(manifest: Mapping[str, object]) -> int:
    """What states of one object are ordered by (KEP-5504: resource versions can be compared); 0 if it has none."""
    metadata = manifest.get("metadata")
    text = str(metadata.get("resourceVersion", "")) if isinstance(metadata, Mapping) else ""
    return int(text) if text.isdecimal() else 0


def namespace(manifest: Mapping[str, object]) -> Namespace:
    metadata = manifest["metadata"]
    assert isinstance(metadata, Mapping)
    return Namespace(metadata.get("labels") or {}, "deletionTimestamp" in metadata, version(manifest))


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
    """Host agents' pods in the own namespace."""
    cluster_id: str = ""
    """The UID of the namespace `kube-system`, which is taken for the cluster's identity."""
    csi_installed: bool = False
