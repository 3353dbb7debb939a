"""Pods that are never injected, whatever their DynaKube says: one function a rule.

Infrastructure is recognised by the names of DNS and network programs in its labels, and by the host paths that its
work requires. A volume driver mounts kubelet's plugin directories, a network plugin those of the CNI. That holds for
programs of any name, and no application needs either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

from oneagent.common import identifiers
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import pod_annotations, skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.pod_model import Pod, Term

KUBE_SYSTEM: Final = "kube-system"

_CRITICAL: Final = ("system-node-critical", "system-cluster-critical")
_NAMING_LABELS: Final = ("k8s-app", "app.kubernetes.io/name", "app")
_INFRASTRUCTURE: Final = frozenset(
    (
        *("kube-dns", "coredns", "node-local-dns", "nodelocaldns", "kube-proxy"),
        *("aws-node", "azure-cni", "calico-node", "calico-typha", "canal", "cilium", "cilium-operator", "flannel"),
        *("istio-cni", "istio-cni-node", "kube-multus-ds", "multus", "ovnkube-node", "weave-net"),
    )
)
_CNI_FOLDERS: Final = ("/etc/cni", "/opt/cni", "/var/lib/cni", "/run/cni", "/var/run/cni")
_PLUGIN_FOLDERS: Final = ("plugins", "plugins_registry", "csi-plugins")
_OS_LABELS: Final = ("kubernetes.io/os", "beta.kubernetes.io/os")
_FARGATE: Final = "eks.amazonaws.com/fargate-profile"


def none_of_ours(pod: Pod, facts: PodContext, own_namespace: str) -> SkipReason | None:
    """For pods that are left without a trace."""
    if facts.namespace in (KUBE_SYSTEM, own_namespace):
        return skip_reasons.NAMESPACE_IGNORED
    if pod_annotations.MIRROR in pod.annotations:
        return skip_reasons.MIRROR_POD
    if namespace_mapping.LABEL not in facts.namespace_labels:
        return skip_reasons.NAMESPACE_NOT_MONITORED
    return None


def is_ignored(namespace: str, kube: Kube) -> bool:
    """Whether the label of a namespace is there although the DynaKube ignores it."""
    return any(pattern.search(namespace) for pattern in kube.ignored)


def never_injected(pod: Pod) -> SkipReason | None:
    return next((skip for holds, skip in _NEVER if holds(pod)), None)


def _opted_out(pod: Pod) -> bool:
    return pod_annotations.switch(pod.annotations, pod_annotations.INJECT) is False


def _is_own(pod: Pod) -> bool:
    name = pod.labels.get("app.kubernetes.io/name")
    host_agent = name == "oneagent" and pod.labels.get("app.kubernetes.io/component") == "host-agent"
    return name == identifiers.DISTRIBUTION or host_agent


def _on_windows(pod: Pod) -> bool:
    wanted = pod.spec.node_selector or {}
    named = [pod.spec.os.name if pod.spec.os else "", *(wanted.get(label) for label in _OS_LABELS)]
    contexts = [pod.spec.security_context, *(container.security_context for container in pod.everything())]
    if "windows" in named or any(context.windows_options for context in contexts if context):
        return True
    return bool(pod.nodes) and all(_names_windows(term) for term in pod.nodes)


def _names_windows(term: Term) -> bool:
    return any(
        wanted.key in _OS_LABELS and wanted.operator == "In" and wanted.values == ["windows"]
        for wanted in term.match_expressions or ()
    )


def _on_virtual_node(pod: Pod) -> bool:
    return _FARGATE in pod.labels or (pod.spec.node_selector or {}).get("type") == "virtual-kubelet"


def _is_debug_copy(pod: Pod) -> bool:
    return all(key in pod.annotations for key in pod_annotations.DEBUG)


def _is_critical(pod: Pod) -> bool:
    return pod.spec.priority_class_name in _CRITICAL


def _is_infrastructure(pod: Pod) -> bool:
    if any(pod.labels.get(label) in _INFRASTRUCTURE for label in _NAMING_LABELS):
        return True
    return any(_serves_pods(volume.host_path.path) for volume in pod.spec.volumes or () if volume.host_path)


def _serves_pods(path: str) -> bool:
    parts = PurePosixPath(path).parts
    if any(path == folder or path.startswith(f"{folder}/") for folder in _CNI_FOLDERS):
        return True
    # Kubelet's root may be anywhere, but it is called so, and its plugins' folders are right in it.
    return any(part in _PLUGIN_FOLDERS and before.startswith("kubelet") for before, part in itertools.pairwise(parts))


def _on_host_network(pod: Pod) -> bool:
    asked = pod_annotations.switch(pod.annotations, pod_annotations.INJECT_AGENT)
    return bool(pod.spec.host_network) and asked is not True


_NEVER: Final[tuple[tuple[Callable[[Pod], bool], SkipReason], ...]] = (
    (_opted_out, skip_reasons.OPTED_OUT),
    (_is_own, skip_reasons.OWN_POD),
    (_on_windows, skip_reasons.WINDOWS),
    (_on_virtual_node, skip_reasons.VIRTUAL_NODE),
    (_is_debug_copy, skip_reasons.DEBUG_POD),
    (_is_critical, skip_reasons.CRITICAL),
    (_is_infrastructure, skip_reasons.INFRASTRUCTURE),
    (_on_host_network, skip_reasons.HOST_NETWORK),
)
