"""Whether a pod is for Windows nodes, where no volume of ours can be mounted and the pod would never start.

A pod may say so by its own field, by options that only Windows has, or by the labels that its node must have. Cloud
providers have labels of their own for it, so a label is recognised by its name without the domain. A toleration is
weaker: pods for any node may have it, so it counts only if the pod does not require Linux.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from oneagent.webhook.injection.pod_model import Expression, Pod, Term

_WINDOWS: Final = "windows"
_LINUX: Final = "linux"
_OS: Final = "os"
"""Name of `kubernetes.io/os` and `beta.kubernetes.io/os`, of taints of Windows nodes, and of labels of users"""
_BUILD: Final = "windows-build"
"""Name of a label that only Windows nodes have: `node.kubernetes.io/windows-build`"""
_DISTRIBUTIONS: Final = frozenset(
    ("os-sku", "os-sku-effective", "os-sku-requested", "gke-os-distribution", "os-distribution", "os_id")
)
"""Names of the labels for a node's distribution, on Azure, Google Cloud and OpenShift: `Windows2022`, `windows_ltsc`"""


def is_windows(pod: Pod) -> bool:
    if pod.spec.os and pod.spec.os.name == _WINDOWS:
        return True
    contexts = [pod.spec.security_context, *(container.security_context for container in pod.all_containers())]
    if any(context.windows_options for context in contexts if context):
        return True
    if any(_is_windows_label(key, value) for key, value in _node_selector(pod)):
        return True
    if pod.nodes and all(_requires_windows(term) for term in pod.nodes):
        return True
    return _tolerates_windows(pod) and not _requires_linux(pod)


def _node_selector(pod: Pod) -> Iterator[tuple[str, str]]:
    selector: Mapping[str, str] = pod.spec.node_selector or {}
    return ((_name(key), value.lower()) for key, value in selector.items())


def _requires_windows(term: Term) -> bool:
    return any(_is_windows_expression(expression) for expression in term.match_expressions or ())


def _is_windows_expression(expression: Expression) -> bool:
    name, values = _name(expression.key), [value.lower() for value in expression.values or ()]
    match expression.operator:
        case "In":
            return bool(values) and all(_is_windows_label(name, value) for value in values)
        case "NotIn":
            return name == _OS and _LINUX in values
        case "Exists" | "Gt" | "Lt":
            return name == _BUILD
        case _:
            return False


def _is_windows_label(name: str, value: str) -> bool:
    if name == _OS:
        return value == _WINDOWS
    return name == _BUILD or (name in _DISTRIBUTIONS and value.startswith(_WINDOWS))


def _tolerates_windows(pod: Pod) -> bool:
    return any(
        _name(toleration.key or "") == _OS and (toleration.value or "").lower() == _WINDOWS
        for toleration in pod.spec.tolerations or ()
    )


def _requires_linux(pod: Pod) -> bool:
    if (pod.spec.os and pod.spec.os.name == _LINUX) or (_OS, _LINUX) in _node_selector(pod):
        return True
    return bool(pod.nodes) and all(
        any(_is_linux_expression(expression) for expression in term.match_expressions or ()) for term in pod.nodes
    )


def _is_linux_expression(expression: Expression) -> bool:
    if _name(expression.key) != _OS:
        return False
    values = [value.lower() for value in expression.values or ()]
    return (expression.operator == "In" and values == [_LINUX]) or (
        expression.operator == "NotIn" and _WINDOWS in values
    )


def _name(key: str) -> str:
    """A label's or taint's key without its domain."""
    return key.rpartition("/")[2]
