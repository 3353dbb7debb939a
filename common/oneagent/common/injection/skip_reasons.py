"""Reasons for which a pod is not injected: name, visibility, explanation and remedy of each.

A reason is an annotation's value and a metric's label, so it never changes its meaning. A new one is an entry here and
a rule in `oneagent.webhook.injection.exclusions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Visibility(Enum):
    SILENT = auto()
    """No trace on the pod: no DynaKube covers it."""
    ANNOTATE = auto()
    """Annotations with the reason: the pod is excluded on purpose, by a user or by a rule."""
    WARN = auto()
    """Annotations, a warning and an Event: the pod should have been injected."""


@dataclass(frozen=True, slots=True)
class SkipReason:
    reason: str
    visibility: Visibility
    why: str
    """End of a sentence that begins with `pod NAME is left as it is:`."""
    remedy: str = ""
    detail: str = ""

    def __str__(self) -> str:
        found = f"{self.why}: {self.detail}" if self.detail else self.why
        return f"{found}; {self.remedy}" if self.remedy else found


_SILENT, _ANNOTATE, _WARN = Visibility.SILENT, Visibility.ANNOTATE, Visibility.WARN

NAMESPACE_NOT_MONITORED: Final = SkipReason("NamespaceNotMonitored", _SILENT, "its namespace belongs to no DynaKube")
NAMESPACE_IGNORED: Final = SkipReason("NamespaceIgnored", _SILENT, "its namespace is never monitored")
MIRROR_POD: Final = SkipReason("MirrorPod", _SILENT, "it mirrors a pod that the node runs by itself")

OPTED_OUT: Final = SkipReason("OptedOut", _ANNOTATE, "its annotation turns injection off")
CONTAINERS_EXCLUDED: Final = SkipReason("AllContainersExcluded", _ANNOTATE, "annotations exclude all of its containers")
NOT_AUTOMATIC: Final = SkipReason("AutomaticInjectionOff", _ANNOTATE, "the DynaKube injects only pods that ask for it")
NOT_SELECTED: Final = SkipReason("NamespaceNotSelected", _ANNOTATE, "the DynaKube's mode does not select its namespace")
MODE_INJECTS_NOTHING: Final = SkipReason("ModeWithoutInjection", _ANNOTATE, "the DynaKube's mode injects no agents")
WINDOWS: Final = SkipReason("Windows", _ANNOTATE, "it runs on Windows")
HOST_NETWORK: Final = SkipReason("HostNetwork", _ANNOTATE, "it has its node's network and does not ask to be injected")
DEBUG_POD: Final = SkipReason("DebugPod", _ANNOTATE, "it is a copy for debugging")
OWN_POD: Final = SkipReason("OwnPod", _ANNOTATE, "it belongs to the monitoring itself")
CRITICAL: Final = SkipReason("CriticalPod", _ANNOTATE, "it has a system-critical priority class")
INFRASTRUCTURE: Final = SkipReason("Infrastructure", _ANNOTATE, "it gives other pods network, names or volumes")
VIRTUAL_NODE: Final = SkipReason("VirtualNode", _ANNOTATE, "it runs on a virtual node, which has no CSI driver")

DYNAKUBE_MISSING: Final = SkipReason(
    "DynaKubeMissing",
    _WARN,
    "the DynaKube of its namespace is not there",
    "it comes back, or the label goes by itself",
)
DYNAKUBE_UNUSABLE: Final = SkipReason("DynaKubeUnusable", _WARN, "the DynaKube can't be used")
DYNAKUBE_NOT_READY: Final = SkipReason(
    "DynaKubeNotReady", _WARN, "the DynaKube knows no tenant or version yet", "its conditions say what it waits for"
)
DRIVER_TROUBLE: Final = SkipReason("DriverUnavailable", _WARN, "the CSI driver is in trouble")
# Kubelet has a pod's volumes mounted with mapped users, which overlay file systems refuse.
USER_NAMESPACE: Final = SkipReason(
    "UserNamespace",
    _WARN,
    "it has users of its own (hostUsers is false), for which a node can't mount the agent",
    "let it have its node's users, or use a DynaKube without the CSI driver",
)
INVALID_INSTALL_PATH: Final = SkipReason(
    "InvalidInstallPath",
    _WARN,
    "the agent can't be put where its annotation oneagent.dynatrace.com/install-path says",
    "name a plain path such as /opt/dynatrace/oneagent-paas, outside of /dev, /proc, /sys and /var/lib/dynatrace",
)
CONFLICTING_VOLUME: Final = SkipReason(
    "ConflictingVolume", _WARN, "it has a volume with a name that is needed", "give it another name"
)
CONFLICTING_CONTAINER: Final = SkipReason(
    "ConflictingContainer", _WARN, "it has a container with a name that is needed", "give it another name"
)
CONFLICTING_MOUNTS: Final = SkipReason(
    "ConflictingMounts",
    _WARN,
    "all of its containers have mounts of their own where something is to be mounted",
    "the annotation oneagent.dynatrace.com/install-path names another place for the agent",
)
NOT_UNDERSTOOD: Final = SkipReason("InvalidPod", _WARN, "its manifest is not one of a pod")
