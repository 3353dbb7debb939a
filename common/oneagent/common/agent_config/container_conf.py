"""`container.conf`: the identity of a container, for its agent.

Rendered during every publish, so it is one pass over a dozen values and nothing else. The values come
from a pod, so from any user who may create one: each is reduced to its own line (see `ruxitagentproc`), and an
empty one leaves its line out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# The same characters as in `agentconf`, which is not imported: the server needs nothing else of it.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Container:
    """Identity of a container. `pod_name` is the full name, `base_pod_name` the workload's part of it."""

    container_name: str = ""
    image_name: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    base_pod_name: str = ""
    namespace: str = ""
    cluster_id: str = ""
    node_name: str = ""
    host_tenant: str = ""
    """Tenant of this node's host agent if it is the container's too; opens the section `[host]`."""


def render(container: Container) -> str:
    """The file's text, ending in a line break."""
    c = container
    lines = ["[container]"]
    for key, value in (
        ("containerName", c.container_name),
        ("imageName", c.image_name),
        ("k8s_fullpodname", c.pod_name),
        ("k8s_poduid", c.pod_uid),
        ("k8s_containername", c.container_name),
        ("k8s_basepodname", c.base_pod_name),
        ("k8s_namespace", c.namespace),
        ("k8s_cluster_id", c.cluster_id),
        ("k8s_node_name", c.node_name),
    ):
        if value := _to_single_line(value):
            lines.append(f"{key} {value}")
    if tenant := _to_single_line(c.host_tenant):
        lines += ("", "[host]", f"tenant {tenant}", "isCloudNativeFullStack true")
    lines.append("")
    return "\n".join(lines)


def _to_single_line(text: str) -> str:
    return text if text.isalnum() else _UNPRINTABLE.sub("", text).strip()
