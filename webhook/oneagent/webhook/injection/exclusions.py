"""Rules for pods that are never injected, regardless of their DynaKube.

Infrastructure is recognised by the names of DNS and network programs in its labels, and by the host paths that its
work requires: a volume driver mounts kubelet's plugin directories, a network plugin those of the CNI. These paths find
programs of any name, and no application needs them. A name is a guess, since applications may have it too, and an
annotation that requests injection outweighs it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from oneagent.common import identifiers
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import pod_annotations, skip_reasons
from oneagent.common.injection.skip_reasons import SkipReason
from oneagent.webhook.injection import operating_system
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.inputs import PodContext
from oneagent.webhook.injection.pod_model import PATH_MAX, Pod

KUBE_SYSTEM: Final = "kube-system"

_MAX_CONTAINERS: Final = 500

_CRITICAL: Final = ("system-node-critical", "system-cluster-critical")
_NAMING_LABELS: Final = ("k8s-app", "app.kubernetes.io/name", "app")
_INFRASTRUCTURE: Final = frozenset(
    (
        *("kube-dns", "coredns", "node-local-dns", "nodelocaldns", "kube-proxy"),
        *("aws-node", "azure-cni", "calico-node", "calico-typha", "canal", "cilium", "cilium-operator", "flannel"),
        *("istio-cni", "istio-cni-node", "kube-multus-ds", "multus", "ovnkube-node", "weave-net"),
    )
)
_CNI_DIRECTORIES: Final = ("/etc/cni", "/opt/cni", "/var/lib/cni", "/run/cni", "/var/run/cni")
_PLUGIN_DIRECTORIES: Final = ("plugins", "plugins_registry", "csi-plugins")
_FARGATE: Final = "eks.amazonaws.com/fargate-profile"


def find_out_of_scope(pod: Pod, context: PodContext, own_namespace: str) -> SkipReason | None:
    """Return the reason for a pod that gets no annotation; None if a DynaKube covers it."""
    if context.namespace in (KUBE_SYSTEM, own_namespace):
        return skip_reasons.NAMESPACE_IGNORED
    if pod_annotations.MIRROR in pod.annotations:
        return skip_reasons.MIRROR_POD
    if namespace_mapping.LABEL not in context.namespace_labels:
        return skip_reasons.NAMESPACE_NOT_MONITORED
    return None


def is_ignored(namespace: str, dynakube: DynaKubeSettings) -> bool:
    """Return whether the DynaKube ignores a namespace that still has its label."""
    return dynakube.ignored.search(namespace)


def find_oversize(pod: Pod) -> SkipReason | None:
    """Return the reason for a pod whose patch would be too large; none is injected, however it got here."""
    if (count := pod.count_containers()) <= _MAX_CONTAINERS:
        return None
    return replace(skip_reasons.TOO_LARGE, detail=f"{count} containers, and at most {_MAX_CONTAINERS} are injected")


def find_exclusion(pod: Pod) -> SkipReason | None:
    return next((skip for applies, skip in _EXCLUSIONS if applies(pod)), None)


def _opted_out(pod: Pod) -> bool:
    return pod_annotations.switch(pod.annotations, pod_annotations.INJECT) is False


def _opted_in(pod: Pod) -> bool:
    switches = (pod_annotations.INJECT, pod_annotations.INJECT_AGENT)
    return any(pod_annotations.switch(pod.annotations, switch) is True for switch in switches)


def _is_own(pod: Pod) -> bool:
    name = pod.labels.get("app.kubernetes.io/name")
    host_agent = name == "oneagent" and pod.labels.get("app.kubernetes.io/component") == "host-agent"
    return name == identifiers.DISTRIBUTION or host_agent


def _is_on_virtual_node(pod: Pod) -> bool:
    return _FARGATE in pod.labels or (pod.spec.node_selector or {}).get("type") == "virtual-kubelet"


def _is_debug_copy(pod: Pod) -> bool:
    return all(key in pod.annotations for key in pod_annotations.DEBUG)


def _is_critical(pod: Pod) -> bool:
    return pod.spec.priority_class_name in _CRITICAL


def _is_infrastructure(pod: Pod) -> bool:
    named = any(pod.labels.get(label) in _INFRASTRUCTURE for label in _NAMING_LABELS)
    if named and not _opted_in(pod):
        return True
    return any(_is_infrastructure_path(volume.host_path.path) for volume in pod.spec.volumes or () if volume.host_path)


def _is_infrastructure_path(path: str) -> bool:
    parts = PurePosixPath(path[:PATH_MAX]).parts
    if any(path == directory or path.startswith(f"{directory}/") for directory in _CNI_DIRECTORIES):
        return True
    # Kubelet's root may be anywhere, but its name starts with `kubelet` and it contains the plugin directories.
    return any(
        part in _PLUGIN_DIRECTORIES and before.startswith("kubelet") for before, part in itertools.pairwise(parts)
    )


def _is_on_host_network(pod: Pod) -> bool:
    switch = pod_annotations.switch(pod.annotations, pod_annotations.INJECT_AGENT)
    return bool(pod.spec.host_network) and switch is not True


_EXCLUSIONS: Final[tuple[tuple[Callable[[Pod], bool], SkipReason], ...]] = (
    (_opted_out, skip_reasons.OPTED_OUT),
    (_is_own, skip_reasons.OWN_POD),
    (operating_system.is_windows, skip_reasons.WINDOWS),
    (_is_on_virtual_node, skip_reasons.VIRTUAL_NODE),
    (_is_debug_copy, skip_reasons.DEBUG_POD),
    (_is_critical, skip_reasons.CRITICAL),
    (_is_infrastructure, skip_reasons.INFRASTRUCTURE),
    (_is_on_host_network, skip_reasons.HOST_NETWORK),
)
