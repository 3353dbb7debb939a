"""How far a rollout of host agents is: which agent is on which node, and whether it gets on.

From what was observed only. A pod that is not ready for longer than `PATIENCE_SECONDS`, or ends again and again,
is said with its own reason, which is the one that a person would look for with `kubectl describe pod`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Object = Mapping[str, Any]

PATIENCE_SECONDS: Final = 600.0
"""An image of a gigabyte has to be pulled within."""

_MANY_RESTARTS: Final = 3
_AGAIN_SECONDS: Final = 60.0
_SHOWN: Final = 3
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Late:
    """A pod that is not ready in time, and why."""

    pod: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    state: Literal["done", "rolling", "stuck", "no nodes"]
    message: str
    again_seconds: float | None = None
    """When the next pod is late, if nothing happens before."""


def instances(pods: Iterable[Object]) -> dict[str, dict[str, str]]:
    """The agents by their nodes, as the status has them; of two on one node the one that stays."""
    found: dict[str, Object] = {}
    for pod in sorted(pods, key=_rank):
        node = (pod.get("spec") or {}).get("nodeName")
        if node:
            found[node] = pod
    return {node: _instance(found[node]) for node in sorted(found)}


def progress(daemon_set: Object, pods: Sequence[Object], now: float) -> Progress:
    """`now` in seconds since the epoch."""
    status = daemon_set.get("status") or {}
    desired, updated = int(status.get("desiredNumberScheduled", 0)), int(status.get("updatedNumberScheduled", 0))
    available, ready = int(status.get("numberAvailable", 0)), int(status.get("numberReady", 0))
    late = [one for one in (_late(pod, now) for pod in pods) if one]
    if late:
        shown = "; ".join(f"{one.node or 'no node'}: {one.reason} (pod {one.pod})" for one in late[:_SHOWN])
        more = f"; and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
        return Progress("stuck", f"{len(late)} of {desired} agents do not get ready: {shown}{more}", _AGAIN_SECONDS)
    again = min((left for pod in pods if (left := _patience_left(pod, now)) is not None), default=None)
    if int(status.get("observedGeneration", 0)) < int((daemon_set.get("metadata") or {}).get("generation", 0)):
        return Progress("rolling", "the DaemonSet controller has not seen the change yet", again)
    if desired == 0:
        return Progress("no nodes", "no node is selected by nodeSelector and tolerations", again)
    if min(updated, available) >= desired:
        return Progress("done", f"an agent is ready on {desired} of {desired} nodes")
    message = f"{updated} of {desired} nodes have the wanted agent, {ready} have one that is ready"
    if len(pods) < desired:
        message += f"; {desired - len(pods)} have no pod: if they stay without, the DaemonSet's events say why"
    return Progress("rolling", message, again)


def _rank(pod: Object) -> tuple[bool, str]:
    """The later, the more a pod is the one that stays."""
    metadata = pod.get("metadata") or {}
    return "deletionTimestamp" not in metadata, str(metadata.get("creationTimestamp", ""))


def _instance(pod: Object) -> dict[str, str]:
    status = pod.get("status") or {}
    return {"podName": pod["metadata"]["name"], "ipAddress": status.get("hostIP") or status.get("podIP") or ""}


def _conditions(pod: Object) -> dict[str, Object]:
    return {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}


def _patience_left(pod: Object, now: float) -> float | None:
    """Seconds until a pod is late, not above zero if it is; None for one that is ready."""
    ready = _conditions(pod).get("Ready") or {}
    since = pod["metadata"].get("deletionTimestamp")
    if since is None and ready.get("status") == "True":
        return None
    since = since or ready.get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    return _seconds(since, now) + PATIENCE_SECONDS - now


def _seconds(written: object, now: float) -> float:
    try:
        return datetime.datetime.fromisoformat(str(written)).timestamp()
    except ValueError:
        return now


def _late(pod: Object, now: float) -> Late | None:
    left = _patience_left(pod, now)
    reason = _crashing(pod, now) or (_reason(pod) if left is not None and left <= 0 else "")
    if not reason:
        return None
    node = (pod.get("spec") or {}).get("nodeName") or ""
    return Late(pod["metadata"]["name"], node, reason[:_LONGEST_REASON])


def _crashing(pod: Object, now: float) -> str:
    """Of an agent that ends again and again: in between it is ready, so it would never be late."""
    for container in _containers(pod):
        ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        restarts = int(container.get("restartCount", 0))
        if ended and restarts >= _MANY_RESTARTS and now - _seconds(ended.get("finishedAt"), now) < PATIENCE_SECONDS:
            return f"restarted {restarts} times, ended with exit code {ended.get('exitCode')}: {_said(ended)}"
    return ""


def _reason(pod: Object) -> str:
    """Why a pod is not ready, in the words of kubelet or the scheduler."""
    status = pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"]:
        return f"does not end; it should have at {pod['metadata']['deletionTimestamp']}"
    if status.get("phase") == "Failed":
        return _said(status) or "the pod has failed"
    waiting = ((container.get("state") or {}).get("waiting") for container in _containers(pod))
    scheduled = _conditions(pod).get("PodScheduled") or {}
    told = [scheduled if scheduled.get("status") == "False" else None, *waiting, _conditions(pod).get("Ready")]
    return next((said for one in told if one and (said := _said(one))), "not ready, and nobody says why")


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _said(told: Object) -> str:
    return ": ".join(part for part in (told.get("reason"), told.get("message")) if part)
