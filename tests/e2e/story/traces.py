"""What there is on a cluster and on its node, to compare before an installation and after it is gone."""

from __future__ import annotations

from typing import Any, Final

from tests.cluster.cluster import Cluster
from tests.cluster.node import KUBELET

# They tell what was, and go by themselves.
_FLEETING: Final = ("events", "events.events.k8s.io")


def of_cluster(cluster: Cluster) -> set[str]:
    """Every object of every kind, with its labels, its finalizers and the names of its annotations."""
    found = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = ",".join(kind for kind in found if kind not in _FLEETING)
    return {_line(item) for item in cluster.kubectl.json("get", kinds, "--all-namespaces")["items"]}


def of_node(cluster: Cluster) -> set[str]:
    """Mounts below kubelet's folder, sockets and files of drivers, and the drivers that kubelet knows."""
    files = (path for folder in ("plugins", "plugins_registry") for path in (KUBELET / folder).rglob("*"))
    return {
        *(f"mount {mount.target}" for mount in cluster.node.mounts()),
        *(f"file {path}" for path in files),
        *(f"driver {name}" for name in drivers(cluster)),
    }


def drivers(cluster: Cluster) -> list[str]:
    nodes = cluster.kubectl.json("get", "csinodes")["items"]
    return [driver["name"] for node in nodes for driver in node["spec"]["drivers"] or ()]


def _line(item: dict[str, Any]) -> str:
    metadata = item["metadata"]
    name = f"{item['apiVersion']} {item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    return f"{name} {sorted(labels.items())} {sorted(annotations)} {metadata.get('finalizers', [])}"
