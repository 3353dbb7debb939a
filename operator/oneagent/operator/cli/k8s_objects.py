"""Accessors for Kubernetes objects in JSON. Absent fields read as empty."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import agents, identifiers
from oneagent.operator.cli.kubectl import Object

COMPONENT: Final = "app.kubernetes.io/component"
IMAGE_REMEDY: Final = "check the image's name, and that the node may pull it"
_CRASHING: Final = "CrashLoopBackOff"
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


def resource(dynakube: str) -> str:
    """Return how kubectl names a DynaKube, or the object that became one."""
    profile = agents.of_dynakube(dynakube)
    kind = profile.name_prefix.rstrip(".") or "dynakube"
    return f"{kind} {profile.name_of_object(dynakube)}"


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
            ended = (state.get("lastState") or {}).get("terminated") or {}
            # Of a container that crashes kubelet's own message has but the name, and a delay that differs by node.
            message = _end(ended) if ended and reason == _CRASHING else str(waiting.get("message", "")).strip()
            yield ContainerProblem(container, reason, message)


def _end(ended: Mapping[str, Any]) -> str:
    """Return how a container has ended, and its last words: the end of its log, if it wrote no message itself."""
    cause = str(ended.get("reason", ""))
    code = f"exit code {ended.get('exitCode', 'unknown')}"
    words = _last_line(str(ended.get("message", "")))
    return f"({code if cause in ('', 'Error', 'Completed') else f'{cause}, {code}'}){f' {words}' if words else ''}"


def _last_line(log: str) -> str:
    """Return the last line of a log; of our own, in JSON, message, reason and error, which nodes have in common."""
    line = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    try:
        entry = json.loads(line)
        error = next(iter(str(entry.get("error", "")).splitlines()[-1:]), "")
        return ": ".join(filter(None, (str(entry["message"]), str(entry.get("reason", "")), error)))
    except (ValueError, TypeError, KeyError, AttributeError):
        # Kubelet keeps the last 2 KiB, and one of our lines with a traceback may be longer.
        is_cut = line.endswith('"}') and not line.startswith("{")
        return line.removesuffix('"}').rpartition(r"\n")[2] if is_cut else line


def explain_unready(pod: Object) -> Iterator[str]:
    """Yield what is known of containers that are not ready; those with the same problem together."""
    problems = {problem.container: problem for problem in container_problems(pod)}
    found: dict[str, list[str]] = {}
    for container, state in container_statuses(pod).items():
        ended = (state.get("lastState") or {}).get("terminated") or {}
        if problem := problems.get(container):
            found.setdefault(f"{problem.reason} {problem.message}", []).append(container)
        elif state.get("ready") is False and ended:
            # Without their number, so that nodes with the same problem are one problem.
            found.setdefault(f"restarts {_end(ended)}", []).append(container)
    yield from (f"{', '.join(containers)} {text}".strip() for text, containers in found.items())


def next_look(pod: Object) -> str:
    """Return what to do about a pod that is not ready: the command for the log of a container that crashes, first."""
    namespace, pod_name = pod["metadata"]["namespace"], name(pod)
    if crashed := _crashed(pod):
        return f"kubectl -n {namespace} logs {pod_name} -c {crashed} --previous"
    if _has_no_image(pod):
        return IMAGE_REMEDY
    return f"kubectl -n {namespace} describe pod {pod_name}"


def has_failed(pod: Object) -> bool:
    """Return True if a container of the pod ends again and again, or has no image."""
    return bool(_crashed(pod)) or _has_no_image(pod)


def _has_no_image(pod: Object) -> bool:
    return any(problem.is_image_pull for problem in container_problems(pod))


def _crashed(pod: Object) -> str:
    return next((problem.container for problem in container_problems(pod) if problem.reason == _CRASHING), "")


def is_ready(pod: Object) -> bool:
    return has_condition(pod, "Ready") and not is_deleting(pod)


def has_driver_volume(pod: Object) -> bool:
    return any(
        (volume.get("csi") or {}).get("driver") == identifiers.DRIVER_NAME
        for volume in pod["spec"].get("volumes") or ()
    )


def node(pod: Object) -> str:
    """Return the pod's node; empty until it is scheduled."""
    return str(pod["spec"].get("nodeName") or "")


def release(obj: Object) -> str:
    """Return the version of a workload or a pod: its label, or its image's tag; empty for an image by digest only."""
    if version := labels(obj).get("app.kubernetes.io/version"):
        return version
    spec = obj["spec"]["template"]["spec"] if "template" in obj["spec"] else obj["spec"]
    images = [str(container.get("image", "")) for container in spec["containers"]]
    return (images or [""])[0].partition("@")[0].rpartition("/")[2].partition(":")[2]
