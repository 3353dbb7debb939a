"""`container.env`: the service and the resource that the telemetry of a container is about.

Names are those of the semantic conventions, and choices those of the OpenTelemetry operator: the workload names the
service, the namespace its namespace, the image's tag its version, and pod and container the instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines
from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.agents.profile import PodIdentity

_WORKLOADS: Final = frozenset({"cronjob", "daemonset", "deployment", "job", "replicaset", "statefulset"})
"""Kinds whose names the semantic conventions have an attribute for."""
_NAMESPACE, _POD, _UID = "k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid"


def render_identity(files: PodFiles) -> str:
    """Return the file of a container that mounts none of its own; with its name if the pod has a single one."""
    name, image = files.containers[0] if len(files.containers) == 1 else ("", "")
    return _render(files, dataclasses.replace(files.pod, container_name=name, image_name=image))


def render_all(files: PodFiles) -> Iterator[tuple[str, str]]:
    for name, image in files.containers:
        container = dataclasses.replace(files.pod, container_name=name, image_name=image)
        yield opentelemetry.CONTAINER_FILE.format(container=name), _render(files, container)


def parse_identity(text: str) -> PodIdentity:
    found = variable_lines.split(variable_lines.parse(text).get(variable_lines.RESOURCE_ATTRIBUTES, ""))
    return PodIdentity(found.get(_POD, ""), found.get(_NAMESPACE, ""), found.get(_UID, ""))


def _render(files: PodFiles, container: Container) -> str:
    attributes = {**dict(_attributes(files, container)), **files.resource_attributes}
    return variable_lines.render(
        {
            "OTEL_SERVICE_NAME": files.workload_name or container.base_pod_name or container.pod_name,
            variable_lines.RESOURCE_ATTRIBUTES: variable_lines.join(attributes.items()),
        }
    )


def _attributes(files: PodFiles, container: Container) -> Iterator[tuple[str, str]]:
    yield _NAMESPACE, container.namespace
    yield _POD, container.pod_name
    yield _UID, container.pod_uid
    yield "k8s.node.name", container.node_name
    yield "k8s.container.name", container.container_name
    yield "k8s.cluster.uid", container.cluster_id
    if (kind := files.workload_kind.lower()) in _WORKLOADS:
        yield f"k8s.{kind}.name", files.workload_name
    yield "service.namespace", container.namespace
    yield "service.version", _tag(container.image_name)
    if container.container_name:
        parts = (container.namespace, container.pod_name, container.container_name)
        yield "service.instance.id", ".".join(filter(None, parts))


def _tag(image: str) -> str:
    """Return an image's tag; empty if it has none, as with a digest alone."""
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]
