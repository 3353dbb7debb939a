"""Inventory of a cluster and its node, to compare before an installation and after its removal."""

from __future__ import annotations

import time
from typing import Any, Final

from tests.cluster.cluster import Cluster
from tests.cluster.node import KUBELET
from tests.e2e.installation import PLUGIN

# They tell what was, and go by themselves.
_FLEETING: Final = ("events", "events.events.k8s.io")
_BEATING: Final = "kube-node-lease"
"""Kubelet's own sign of life, which may come late."""


def of_cluster(cluster: Cluster) -> set[str]:
    """Every object of every kind, with its labels, its finalizers and the names of its annotations."""
    found = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = ",".join(kind for kind in found if kind not in _FLEETING)
    items = cluster.kubectl.json("get", kinds, "--all-namespaces")["items"]
    return {_line(item) for item in items if item["metadata"].get("namespace") != _BEATING}


def of_node(cluster: Cluster) -> set[str]:
    """Mounts below kubelet's folder, sockets and files of drivers, and the drivers that kubelet knows."""
    nodes = cluster.kubectl.json("get", "csinodes")["items"]
    files = (path for folder in ("plugins", "plugins_registry") for path in (KUBELET / folder).rglob("*"))
    return {
        *(f"mount {mount.target}" for mount in cluster.node.mounts()),
        *(f"file {path}" for path in files),
        *(f"driver {driver['name']}" for node in nodes for driver in node["spec"]["drivers"] or ()),
    }


def left_on_node(cluster: Cluster, before: set[str], within_seconds: float = 20) -> set[str]:
    """What has come since and does not go, the data folder left aside. Kubelet cleans up after pods are gone."""
    deadline = time.monotonic() + within_seconds
    while (left := of_node(cluster) - before - _data()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _data() -> set[str]:
    data = PLUGIN / "data"
    return {f"file {path}" for path in (PLUGIN, data, *data.rglob("*"))}


def _line(item: dict[str, Any]) -> str:
    metadata = item["metadata"]
    name = f"{item['apiVersion']} {item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    return f"{name} {sorted(labels.items())} {sorted(annotations)} {metadata.get('finalizers', [])}"
