"""Progress of a rollout of host agents, from the DaemonSet and its pods.

A pod that is not ready for longer than `READY_TIMEOUT_SECONDS`, or that crashes repeatedly, is reported with its own
reason, the one that `kubectl describe pod` shows.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Object = Mapping[str, Any]

READY_TIMEOUT_SECONDS: Final = 600.0
"""Long enough to pull an image of a gigabyte."""

_MANY_RESTARTS: Final = 3
_REQUEUE_SECONDS: Final = 60.0
_MAX_LISTED: Final = 3
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class OverduePod:
    """A pod that is not ready in time."""

    pod: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    state: Literal["done", "rolling", "stuck", "no nodes"]
    message: str
    requeue_seconds: float | None = None
    """Time until the next pod is overdue."""


def instances(pods: Iterable[Object]) -> dict[str, dict[str, str]]:
    """Return the agents by node, as in the status; of two on one node the one that stays."""
    by_node: dict[str, Object] = {}
    for pod in sorted(pods, key=_rank):
        node = (pod.get("spec") or {}).get("nodeName")
        if node:
            by_node[node] = pod
    return {node: _instance(by_node[node]) for node in sorted(by_node)}


def progress(daemon_set: Object, pods: Sequence[Object], now: float) -> Progress:
    """Return the progress; `now` is in seconds since the epoch."""
    status = daemon_set.get("status") or {}
    desired, updated = int(status.get("desiredNumberScheduled", 0)), int(status.get("updatedNumberScheduled", 0))
    available, ready = int(status.get("numberAvailable", 0)), int(status.get("numberReady", 0))
    overdue = [found for found in (_overdue(pod, now) for pod in pods) if found]
    if overdue:
        shown = "; ".join(f"{one.node or 'no node'}: {one.reason} (pod {one.pod})" for one in overdue[:_MAX_LISTED])
        more = f"; and {len(overdue) - _MAX_LISTED} more" if len(overdue) > _MAX_LISTED else ""
        return Progress(
            "stuck", f"{len(overdue)} of {desired} agents are not ready in time: {shown}{more}", _REQUEUE_SECONDS
        )
    requeue = min((left for pod in pods if (left := _seconds_left(pod, now)) is not None), default=None)
    if int(status.get("observedGeneration", 0)) < int((daemon_set.get("metadata") or {}).get("generation", 0)):
        return Progress("rolling", "waiting for the DaemonSet controller", requeue)
    if desired == 0:
        return Progress("no nodes", "no node matches nodeSelector and tolerations", requeue)
    if min(updated, available) >= desired:
        return Progress("done", f"an agent is ready on {desired} of {desired} nodes")
    message = f"{updated} of {desired} nodes have the desired agent, {ready} have a ready one"
    if len(pods) < desired:
        message += f"; {desired - len(pods)} have no pod: if that persists, see the events of the DaemonSet"
    return Progress("rolling", message, requeue)


def _rank(pod: Object) -> tuple[bool, str]:
    """Sort key: the pod that stays comes last."""
    metadata = pod.get("metadata") or {}
    return "deletionTimestamp" not in metadata, str(metadata.get("creationTimestamp", ""))


def _instance(pod: Object) -> dict[str, str]:
    status = pod.get("status") or {}
    return {"podName": pod["metadata"]["name"], "ipAddress": status.get("hostIP") or status.get("podIP") or ""}


def _conditions(pod: Object) -> dict[str, Object]:
    return {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}


def _seconds_left(pod: Object, now: float) -> float | None:
    """Seconds until a pod is overdue, at most 0 if it is; None for a ready pod."""
    ready = _conditions(pod).get("Ready") or {}
    since = pod["metadata"].get("deletionTimestamp")
    if since is None and ready.get("status") == "True":
        return None
    since = since or ready.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return _timestamp(since, now) + READY_TIMEOUT_SECONDS - now


def _timestamp(written: object, now: float) -> float:
    try:
        return datetime.datetime.fromisoformat(str(written)).timestamp()
    except ValueError:
        return now


def _overdue(pod: Object, now: float) -> OverduePod | None:
    left = _seconds_left(pod, now)
    reason = _crash_reason(pod, now) or (_reason(pod) if left is not None and left <= 0 else "")
    if not reason:
        return None
    node = (pod.get("spec") or {}).get("nodeName") or ""
    return OverduePod(pod["metadata"]["name"], node, reason[:_LONGEST_REASON])


def _crash_reason(pod: Object, now: float) -> str:
    """Return the reason of a repeated crash: between crashes the pod is ready and never overdue."""
    for container in _containers(pod):
        ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        restarts = int(container.get("restartCount", 0))
        if (
            ended
            and restarts >= _MANY_RESTARTS
            and now - _timestamp(ended.get("finishedAt"), now) < READY_TIMEOUT_SECONDS
        ):
            return f"restarted {restarts} times, last exit code {ended.get('exitCode')}: {_text(ended)}"
    return ""


def _reason(pod: Object) -> str:
    """Return the reason of a pod that is not ready, from kubelet or the scheduler."""
    status = pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"]:
        return f"does not terminate; deadline was {pod['metadata']['deletionTimestamp']}"
    if status.get("phase") == "Failed":
        return _text(status) or "the pod has failed"
    waiting = ((container.get("state") or {}).get("waiting") for container in _containers(pod))
    scheduled = _conditions(pod).get("PodScheduled") or {}
    candidates = [scheduled if scheduled.get("status") == "False" else None, *waiting, _conditions(pod).get("Ready")]
    return next((text for one in candidates if one and (text := _text(one))), "not ready, no reason reported")


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _text(reported: Object) -> str:
    return ": ".join(part for part in (reported.get("reason"), reported.get("message")) if part)
