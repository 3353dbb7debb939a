"""Why a pod is left as it is: each reason, how it is told, and what is said of it.

The reason stands in the pod's annotation and in a metric, so it is one of these and never changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Visibility(Enum):
    SILENT = auto()
    """The pod is none of ours: not even an annotation."""
    ANNOTATE = auto()
    """Somebody wanted it so."""
    WARN = auto()
    """The pod should have got something: an annotation, a warning and an Event."""


@dataclass(frozen=True, slots=True)
class SkipReason:
    reason: str
    telling: Visibility
    why: str
    """For people; what a sentence ends with that begins with the pod's name and `is left as it is:`."""
    remedy: str = ""
    detail: str = ""

    def __str__(self) -> str:
        found = f"{self.why}: {self.detail}" if self.detail else self.why
        return f"{found}; {self.remedy}" if self.remedy else found


_SILENT, _ANNOTATE, _WARN = Visibility.SILENT, Visibility.ANNOTATE, Visibility.WARN

NAMESPACE_NOT_MONITORED: Final = SkipReason("NamespaceNotMonitored", _SILENT, "its namespace belongs to no DynaKube")
NAMESPACE_IGNORED: Final = SkipReason("NamespaceIgnored", _SILENT, "its namespace is never monitored")
MIRROR_POD: Final = SkipReason("MirrorPod", _SILENT, "it mirrors a pod that the node runs by itself")

OPTED_OUT: Final = SkipReason("OptedOut", _ANNOTATE, "an annotation of it says so")
CONTAINERS_EXCLUDED: Final = SkipReason("AllContainersExcluded", _ANNOTATE, "annotations exclude all of its containers")
NOT_AUTOMATIC: Final = SkipReason("AutomaticInjectionOff", _ANNOTATE, "the DynaKube injects only pods that ask for it")
NOT_SELECTED: Final = SkipReason("NamespaceNotSelected", _ANNOTATE, "the DynaKube's mode does not select its namespace")
MODE_INJECTS_NOTHING: Final = SkipReason("ModeWithoutInjection", _ANNOTATE, "the DynaKube's mode injects no agents")
WINDOWS: Final = SkipReason("Windows", _ANNOTATE, "it runs on Windows")
HOST_NETWORK: Final = SkipReason("HostNetwork", _ANNOTATE, "it has its node's network and does not ask to be injected")
DEBUG_POD: Final = SkipReason("DebugPod", _ANNOTATE, "it is a copy for debugging")
OWN_POD: Final = SkipReason("OwnPod", _ANNOTATE, "it is part of the monitoring itself")
CRITICAL: Final = SkipReason("CriticalPod", _ANNOTATE, "its priority class says that the cluster hangs on it")
INFRASTRUCTURE: Final = SkipReason("Infrastructure", _ANNOTATE, "it gives other pods network, names or volumes")
VIRTUAL_NODE: Final = SkipReason("VirtualNode", _ANNOTATE, "it runs where there is no node that a driver could run on")

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
