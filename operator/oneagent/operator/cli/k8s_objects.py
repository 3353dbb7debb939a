"""Accessors for Kubernetes objects in JSON. Absent fields read as empty."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.operator.cli.kubectl import Object

COMPONENT: Final = "app.kubernetes.io/component"
_PULLING: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})


@dataclass(frozen=True, slots=True)
class ContainerProblem:
    """Reason why a container does not start."""

    container: str
    reason: str
    message: str

    @property
    def is_image_pull(self) -> bool:
        """Its image can't be pulled."""
        return self.reason in _PULLING


def name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def full_name(obj: Object) -> str:
    """Return `namespace/name`, or the name of a cluster-wide object."""
    namespace = obj["metadata"].get("namespace")
    return f"{namespace}/{name(obj)}" if namespace else name(obj)


def labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def get_annotations(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def status(obj: Object) -> Mapping[str, Any]:
    return obj.get("status") or {}


def is_deleting(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def conditions(obj: Object) -> Mapping[str, Mapping[str, Any]]:
    """Return the conditions by type."""
    return {str(condition.get("type")): condition for condition in status(obj).get("conditions") or ()}


def has_condition(obj: Object, condition: str) -> bool:
    return conditions(obj).get(condition, {}).get("status") == "True"


def age_seconds(stamp: object, now: float) -> float:
    """Return seconds since an RFC 3339 time; 0 if it is none."""
    try:
        return now - datetime.datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        return 0.0


def containers(pod: Object) -> Iterator[str]:
    """Return the names of all containers, in start order."""
    for part in ("initContainers", "containers"):
        yield from (container["name"] for container in pod["spec"].get(part) or ())


def container_statuses(pod: Object) -> dict[str, Mapping[str, Any]]:
    """Return the status of each container, by its name."""
    parts = ("initContainerStatuses", "containerStatuses")
    return {container["name"]: container for part in parts for container in status(pod).get(part) or ()}


def container_problems(pod: Object) -> Iterator[ContainerProblem]:
    """Yield the containers that can't start."""
    for container, state in container_statuses(pod).items():
        waiting = (state.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            last = ((state.get("lastState") or {}).get("terminated") or {}).get("message", "")
            yield ContainerProblem(container, reason, str(last or waiting.get("message", "")).strip())


def is_ready(pod: Object) -> bool:
    return has_condition(pod, "Ready") and not is_deleting(pod)


def node(pod: Object) -> str:
    """Return the pod's node; empty until it is scheduled."""
    return str(pod["spec"].get("nodeName") or "")
