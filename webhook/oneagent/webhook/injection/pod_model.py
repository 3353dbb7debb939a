"""Typed model of the pod fields that are read.

`msgspec` raises a `ValidationError` for manifests that the API server would refuse, too.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from oneagent.common import typed_json
from oneagent.webhook.injection.inputs import Object

PATH_MAX: Final = 4096
"""Of Linux, in bytes"""


@functools.lru_cache(256)
def _normalize(path: str) -> str:
    # The same few paths are looked at several times for each pod of a workload.
    return posixpath.normpath(f"/{path.lstrip('/')}")


class _KubernetesObject(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all parts of a pod; fields without an attribute are ignored."""


class Variable(_KubernetesObject, frozen=True):
    name: str
    value: str | None = None
    value_from: dict[str, Any] | None = None


class Mount(_KubernetesObject, frozen=True):
    name: str
    mount_path: str
    sub_path: str | None = None
    read_only: bool | None = None

    @property
    def normalized_path(self) -> str:
        """The path as a container runtime reads it: always absolute. One that is too long for Linux stays as it is."""
        return self.mount_path if len(self.mount_path) > PATH_MAX else _normalize(self.mount_path)


class SecurityContext(_KubernetesObject, frozen=True):
    """Security context of a pod or container."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    seccomp_profile: dict[str, Any] | None = None
    windows_options: dict[str, Any] | None = None


class Resources(_KubernetesObject, frozen=True):
    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None


class Container(_KubernetesObject, frozen=True):
    name: str
    image: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[Variable] | None = None
    volume_mounts: list[Mount] | None = None
    security_context: SecurityContext | None = None
    resources: Resources | None = None
    restart_policy: str | None = None


class HostPath(_KubernetesObject, frozen=True):
    path: str


class Csi(_KubernetesObject, frozen=True):
    driver: str
    volume_attributes: dict[str, str] | None = None
    read_only: bool | None = None


class Volume(_KubernetesObject, frozen=True):
    name: str
    host_path: HostPath | None = None
    empty_dir: dict[str, Any] | None = None
    csi: Csi | None = None


class LocalReference(_KubernetesObject, frozen=True):
    name: str | None = None


class Os(_KubernetesObject, frozen=True):
    name: str


class Expression(_KubernetesObject, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class Term(_KubernetesObject, frozen=True):
    match_expressions: list[Expression] | None = None


class Nodes(_KubernetesObject, frozen=True):
    """Nodes that match one of the terms."""

    node_selector_terms: list[Term]


class NodeAffinity(_KubernetesObject, frozen=True):
    required: Nodes | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class Affinity(_KubernetesObject, frozen=True):
    node_affinity: NodeAffinity | None = None


class Toleration(_KubernetesObject, frozen=True):
    key: str | None = None
    value: str | None = None


class Spec(_KubernetesObject, frozen=True):
    containers: list[Container]
    init_containers: list[Container] | None = None
    ephemeral_containers: list[Any] | None = None
    volumes: list[Volume] | None = None
    security_context: SecurityContext | None = None
    resources: Resources | None = None
    """Resources of the pod as a whole"""
    image_pull_secrets: list[LocalReference] | None = None
    host_network: bool | None = None
    host_users: bool | None = None
    affinity: Affinity | None = None
    node_selector: dict[str, str] | None = None
    tolerations: list[Toleration] | None = None
    os: Os | None = None
    priority_class_name: str | None = None


class Metadata(_KubernetesObject, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Pod(_KubernetesObject, frozen=True):
    spec: Spec
    metadata: Metadata

    @property
    def nodes(self) -> list[Term]:
        """Terms of which the pod's node must match one; empty if every node matches."""
        affinity = self.spec.affinity and self.spec.affinity.node_affinity
        return affinity.required.node_selector_terms if affinity and affinity.required else []

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}

    @property
    def name(self) -> str:
        """Name for messages; a new pod may have only `generateName`."""
        return self.metadata.name or f"{self.metadata.generate_name or ''}*"

    @property
    def base_name(self) -> str:
        """The workload's part of the name, before the last dash."""
        name = self.metadata.generate_name or self.metadata.name or ""
        return name.rpartition("-")[0] or name

    def all_containers(self) -> Iterator[Container]:
        yield from self.spec.init_containers or ()
        yield from self.spec.containers

    def count_containers(self) -> int:
        """Return the number of all containers, of any kind."""
        return sum(
            map(len, (self.spec.containers, self.spec.init_containers or (), self.spec.ephemeral_containers or ()))
        )


def parse(pod: Object) -> Pod:
    return msgspec.convert(pod, Pod)


typed_json.prepare(Pod)
