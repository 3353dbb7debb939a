"""What is read of a pod, typed. `msgspec` gives a `ValidationError` for what the API server would not take either."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

import msgspec

from oneagent.webhook.injection.inputs import Object


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """Fields that aren't named here are not looked at."""


class Variable(Part, frozen=True):
    name: str
    value: str | None = None
    value_from: dict[str, Any] | None = None


class Mount(Part, frozen=True):
    name: str
    mount_path: str
    read_only: bool | None = None

    @property
    def place(self) -> str:
        """The path as a runtime reads it, which takes each for an absolute one."""
        return posixpath.normpath(f"/{self.mount_path.lstrip('/')}")


class Identity(Part, frozen=True):
    """Of a security context: as whom."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    seccomp_profile: dict[str, Any] | None = None
    windows_options: dict[str, Any] | None = None


class Resources(Part, frozen=True):
    requests: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None


class Container(Part, frozen=True):
    name: str
    image: str | None = None
    command: list[str] | None = None
    env: list[Variable] | None = None
    volume_mounts: list[Mount] | None = None
    security_context: Identity | None = None
    resources: Resources | None = None
    restart_policy: str | None = None


class HostPath(Part, frozen=True):
    path: str


class Csi(Part, frozen=True):
    driver: str
    volume_attributes: dict[str, str] | None = None


class Volume(Part, frozen=True):
    name: str
    host_path: HostPath | None = None
    empty_dir: dict[str, Any] | None = None
    csi: Csi | None = None


class Os(Part, frozen=True):
    name: str


class Expression(Part, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class Term(Part, frozen=True):
    match_expressions: list[Expression] | None = None


class Nodes(Part, frozen=True):
    """Those that fit one of the terms."""

    node_selector_terms: list[Term]


class NodeAffinity(Part, frozen=True):
    required: Nodes | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class Affinity(Part, frozen=True):
    node_affinity: NodeAffinity | None = None


class Spec(Part, frozen=True):
    containers: list[Container]
    init_containers: list[Container] | None = None
    volumes: list[Volume] | None = None
    security_context: Identity | None = None
    resources: Resources | None = None
    """Of the pod as a whole."""
    host_network: bool | None = None
    host_users: bool | None = None
    affinity: Affinity | None = None
    node_selector: dict[str, str] | None = None
    os: Os | None = None
    priority_class_name: str | None = None


class Metadata(Part, frozen=True):
    name: str | None = None
    generate_name: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Pod(Part, frozen=True):
    spec: Spec
    metadata: Metadata

    @property
    def nodes(self) -> list[Term]:
        """One of these the pod's node has to fit; none: any node does."""
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
        """For people: of a pod that is being created the end of its name may not be known yet."""
        return self.metadata.name or f"{self.metadata.generate_name or ''}*"

    @property
    def base_name(self) -> str:
        """The workload's part of the name: what stands before the last dash."""
        name = self.metadata.generate_name or self.metadata.name or ""
        return name.rpartition("-")[0] or name

    def everything(self) -> Iterator[Container]:
        yield from self.spec.init_containers or ()
        yield from self.spec.containers


def read(pod: Object) -> Pod:
    return msgspec.convert(pod, Pod)
