"""A pod's own files, which its agents and its applications read: the facts that go into them.

Each file is mounted into containers by its name (subPath). The node driver writes them into a volume, and without it
the init container writes them into an empty directory. All values come from a pod, so from any user who may create one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import agents
from oneagent.common.agents import oneagent
from oneagent.common.agents.profile import AgentProfile

# The same characters as in `ruxitagentproc`, which the server need not load.
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
    """Tenant of this node's host agent if it is the container's too."""


@dataclass(frozen=True, slots=True)
class PodFiles:
    """The facts that go into the files."""

    pod: Container
    """Attributes of the pod, the same for all of its containers"""
    containers: tuple[tuple[str, str], ...] = ()
    """Name and image of each container with the agent; an image may be empty"""
    connect_retry_ms: int = 0
    """0 for the agent's default"""
    enrichment: bool = False
    workload_kind: str = ""
    workload_name: str = ""
    resource_attributes: Mapping[str, str] = field(default_factory=dict)
    """Replace the pod's own attributes of the same key"""
    agent: str = oneagent.PROFILE.kind
    """Kind of the agent that reads them"""

    @property
    def profile(self) -> AgentProfile:
        return agents.get(self.agent)

    def render(self) -> Iterator[tuple[str, str]]:
        """Yield the path of each file below the directory of all, and its text."""
        return self.profile.render_pod_files(self)


def to_single_line(text: str) -> str:
    """Remove control characters, line separators and outer white space."""
    return text if text.isalnum() else _UNPRINTABLE.sub("", text).strip()
