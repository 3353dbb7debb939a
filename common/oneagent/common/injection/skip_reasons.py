"""Why a pod is left as it is: each reason, how it is told, and what is said of it.

The reason stands in the pod's annotation and in a metric, so it is one of these and never changes its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Telling(Enum):
    NOTHING = auto()
    """The pod is none of ours: not even an annotation."""
    ANNOTATION = auto()
    """Somebody wanted it so."""
    ALARM = auto()
    """The pod should have got something: an annotation, a warning and an Event."""


@dataclass(frozen=True, slots=True)
class Skip:
    reason: str
    telling: Telling
    why: str
    """For people; what a sentence ends with that begins with the pod's name and `is left as it is:`."""
    remedy: str = ""
    detail: str = ""

    def __str__(self) -> str:
        found = f"{self.why}: {self.detail}" if self.detail else self.why
        return f"{found}; {self.remedy}" if self.remedy else found


_NOTHING, _ANNOTATION, _ALARM = Telling.NOTHING, Telling.ANNOTATION, Telling.ALARM

NAMESPACE_NOT_MONITORED: Final = Skip("NamespaceNotMonitored", _NOTHING, "its namespace belongs to no DynaKube")
NAMESPACE_IGNORED: Final = Skip("NamespaceIgnored", _NOTHING, "its namespace is never monitored")
MIRROR_POD: Final = Skip("MirrorPod", _NOTHING, "it mirrors a pod that the node runs by itself")

OPTED_OUT: Final = Skip("OptedOut", _ANNOTATION, "an annotation of it says so")
CONTAINERS_EXCLUDED: Final = Skip("AllContainersExcluded", _ANNOTATION, "annotations exclude all of its containers")
NOT_AUTOMATIC: Final = Skip("AutomaticInjectionOff", _ANNOTATION, "the DynaKube injects only pods that ask for it")
NOT_SELECTED: Final = Skip("NamespaceNotSelected", _ANNOTATION, "the DynaKube's mode does not select its namespace")
MODE_INJECTS_NOTHING: Final = Skip("ModeInjectsNothing", _ANNOTATION, "the DynaKube's mode injects no agents")
WINDOWS: Final = Skip("Windows", _ANNOTATION, "it runs on Windows")
HOST_NETWORK: Final = Skip("HostNetwork", _ANNOTATION, "it has its node's network and does not ask to be injected")
DEBUG_POD: Final = Skip("DebugPod", _ANNOTATION, "it is a copy for debugging")
OWN_POD: Final = Skip("OwnPod", _ANNOTATION, "it is part of the monitoring itself")
CRITICAL: Final = Skip("CriticalPod", _ANNOTATION, "its priority class says that the cluster hangs on it")
INFRASTRUCTURE: Final = Skip("Infrastructure", _ANNOTATION, "it gives other pods network, names or volumes")
VIRTUAL_NODE: Final = Skip("VirtualNode", _ANNOTATION, "it runs where there is no node that a driver could run on")

DYNAKUBE_MISSING: Final = Skip(
    "DynaKubeMissing",
    _ALARM,
    "the DynaKube of its namespace is not there",
    "it comes back, or the label goes by itself",
)
DYNAKUBE_UNUSABLE: Final = Skip("DynaKubeUnusable", _ALARM, "the DynaKube can't be used")
DYNAKUBE_NOT_READY: Final = Skip(
    "DynaKubeNotReady", _ALARM, "the DynaKube knows no tenant or version yet", "its conditions say what it waits for"
)
DRIVER_TROUBLE: Final = Skip("DriverTrouble", _ALARM, "the CSI driver is in trouble")
# Kubelet has a pod's volumes mounted with mapped users, which overlay file systems refuse.
USER_NAMESPACE: Final = Skip(
    "UserNamespace",
    _ALARM,
    "it has users of its own (hostUsers is false), for which a node can't mount the agent",
    "let it have its node's users, or use a DynaKube without the CSI driver",
)
INVALID_INSTALL_PATH: Final = Skip(
    "InvalidInstallPath",
    _ALARM,
    "the agent can't be put where its annotation oneagent.dynatrace.com/install-path says",
    "name a plain path such as /opt/dynatrace/oneagent-paas, outside of /dev, /proc, /sys and /var/lib/dynatrace",
)
CONFLICTING_VOLUME: Final = Skip(
    "ConflictingVolume", _ALARM, "it has a volume with a name that is needed", "give it another name"
)
CONFLICTING_CONTAINER: Final = Skip(
    "ConflictingContainer", _ALARM, "it has a container with a name that is needed", "give it another name"
)
CONFLICTING_MOUNTS: Final = Skip(
    "ConflictingMounts",
    _ALARM,
    "all of its containers have mounts of their own where something is to be mounted",
    "the annotation oneagent.dynatrace.com/install-path names another place for the agent",
)
NOT_UNDERSTOOD: Final = Skip("PodNotUnderstood", _ALARM, "its manifest is not one of a pod")
