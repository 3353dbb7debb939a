"""The driver's pods, one on each node, and what `oneagent-csi` in them says of their nodes.

A node that can't be asked is an answer too: it has the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.operator.cli import k8s_objects, kubectl
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, Object

COMPONENT: Final = "csi-driver"
_CONTAINER: Final = "server"


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node says of itself: `oneagent-csi status` in JSON, or else why there is none."""

    node: str
    pod: str
    status: Mapping[str, Any] | None
    problem: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What needs a person, in the node's own words."""
        return tuple(str(problem) for problem in (self.status or {}).get("problems") or ())


def pods(ours: Iterable[Object]) -> dict[str, Object]:
    """Of the pods of the product's namespace those of the driver, by node; of two on one node the one that stays."""
    found: dict[str, Object] = {}
    for pod in ours:
        if k8s_objects.labels(pod).get(k8s_objects.COMPONENT) != COMPONENT or not k8s_objects.node(pod):
            continue
        if k8s_objects.node(pod) not in found or not k8s_objects.is_leaving(pod):
            found[k8s_objects.node(pod)] = pod
    return found


def ask(to: Kubectl, found: Mapping[str, Object], told: Callable[[str], None] = lambda _: None) -> list[NodeAnswer]:
    """All nodes next to each other; `told` is called with each one's name as it has answered."""

    def one(node: str) -> NodeAnswer:
        answer = _status(to, node, found[node])
        told(node)
        return answer

    with kubectl.all_at_once() as pool:
        return list(pool.map(one, sorted(found)))


def why(to: Kubectl, driver: Object, pod: str) -> Mapping[str, Any]:
    """`oneagent-csi why` of a pod `namespace/name`, in JSON; any `KubectlError`."""
    return _checked(to.ask(k8s_objects.name(driver), _CONTAINER, "oneagent-csi", "why", pod), "verdict")


def _status(to: Kubectl, node: str, driver: Object) -> NodeAnswer:
    pod = k8s_objects.name(driver)
    try:
        return NodeAnswer(node, pod, _checked(to.ask(pod, _CONTAINER, "oneagent-csi", "status"), "problems"))
    except KubectlError as error:
        return NodeAnswer(node, pod, None, str(error))


def _checked(answer: Any, needed: str) -> Mapping[str, Any]:
    """It comes from a driver of whatever release."""
    if not isinstance(answer, dict) or needed not in answer:
        raise KubectlError(f"the driver answers without {needed!r}: it is of another release than this command")
    return answer
