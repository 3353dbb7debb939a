"""`container.conf`: the identity of a container, for its agent.

Rendered during every publish, so it is one pass over a dozen values and nothing else. The values come
from a pod, so from any user who may create one: each is reduced to its own line (see `ruxitagentproc`), and an
empty one leaves its line out.
"""

from __future__ import annotations

from oneagent.common.agents.pod_files import Container, to_single_line
from oneagent.common.agents.profile import PodIdentity


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
        if value := to_single_line(value):
            lines.append(f"{key} {value}")
    if tenant := to_single_line(c.host_tenant):
        lines += ("", "[host]", f"tenant {tenant}", "isCloudNativeFullStack true")
    lines.append("")
    return "\n".join(lines)


def parse_identity(text: str) -> PodIdentity:
    """Return the pod that a file is about."""
    found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return PodIdentity(found.get("k8s_fullpodname", ""), found.get("k8s_namespace", ""), found.get("k8s_poduid", ""))
