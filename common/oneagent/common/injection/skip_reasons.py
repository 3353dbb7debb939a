"""Reasons for which a pod is not injected: name, visibility, explanation and remedy of each.

A reason is an annotation's value and a metric's label, so it never changes its meaning. A new one is an entry here and
a rule in `oneagent.webhook.injection.exclusions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """End of a sentence that begins with `pod NAME is not injected:`."""
    remedy: str = ""
    detail: str = ""

    def for_kind(self, kind: str) -> SkipReason:
        """Return the same about an object of another kind, such as `OpenTelemetryInjection`."""
        return replace(self, why=self.why.replace("DynaKube", kind), remedy=self.remedy.replace("DynaKube", kind))

    def __str__(self) -> str:
        found = f"{self.why}: {self.detail}" if self.detail else self.why
        return f"{found}; {self.remedy}" if self.remedy else found


RESTART: Final = ", then restart the workload"
"""End of a remedy that is for others than the pod's owner."""
_SILENT, _ANNOTATE, _WARN = Visibility.SILENT, Visibility.ANNOTATE, Visibility.WARN

NAMESPACE_NOT_MONITORED: Final = SkipReason("NamespaceNotMonitored", _SILENT, "its namespace belongs to no DynaKube")
NAMESPACE_IGNORED: Final = SkipReason("NamespaceIgnored", _SILENT, "its namespace is ignored")
MIRROR_POD: Final = SkipReason("MirrorPod", _SILENT, "it mirrors a static pod of its node")

OPTED_OUT: Final = SkipReason("OptedOut", _ANNOTATE, "an annotation turns injection off")
CONTAINERS_EXCLUDED: Final = SkipReason("AllContainersExcluded", _ANNOTATE, "annotations exclude all of its containers")
NOT_AUTOMATIC: Final = SkipReason(
    "AutomaticInjectionOff", _ANNOTATE, "the DynaKube injects only pods with an annotation for it"
)
NOT_SELECTED: Final = SkipReason("NamespaceNotSelected", _ANNOTATE, "the DynaKube's mode does not select its namespace")
MODE_INJECTS_NOTHING: Final = SkipReason("ModeWithoutInjection", _ANNOTATE, "the DynaKube's mode injects no agents")
WINDOWS: Final = SkipReason("Windows", _ANNOTATE, "it runs on Windows")
HOST_NETWORK: Final = SkipReason(
    "HostNetwork", _ANNOTATE, "it uses the host network, and no annotation requests injection"
)
DEBUG_POD: Final = SkipReason("DebugPod", _ANNOTATE, "it is a debug copy of a pod")
OWN_POD: Final = SkipReason("OwnPod", _ANNOTATE, "it is a part of this product")
CRITICAL: Final = SkipReason("CriticalPod", _ANNOTATE, "it has a system-critical priority class")
INFRASTRUCTURE: Final = SkipReason("Infrastructure", _ANNOTATE, "it provides network, DNS or volumes for other pods")
VIRTUAL_NODE: Final = SkipReason("VirtualNode", _ANNOTATE, "it runs on a virtual node, which has no CSI driver")

DYNAKUBE_MISSING: Final = SkipReason(
    "DynaKubeMissing",
    _WARN,
    "the DynaKube in its namespace's label does not exist",
    "create the DynaKube; otherwise the operator removes the label",
)
DYNAKUBE_UNUSABLE: Final = SkipReason(
    "DynaKubeUnusable", _WARN, "the DynaKube is invalid", f"correct the DynaKube{RESTART}"
)
DYNAKUBE_NOT_READY: Final = SkipReason(
    "DynaKubeNotReady",
    _WARN,
    "the DynaKube has no version for pods yet",
    f"see the DynaKube's conditions{RESTART}",
)
DRIVER_UNAVAILABLE: Final = SkipReason(
    "DriverUnavailable",
    _WARN,
    "the CSI driver is unavailable",
    f"kubectl oneagent status has the driver's problem{RESTART}",
)
INVALID_INSTALL_PATH: Final = SkipReason(
    "InvalidInstallPath",
    _WARN,
    "its annotation oneagent.dynatrace.com/install-path is not a valid path",
    "use an absolute path such as /opt/dynatrace/oneagent-paas, outside of /dev, /proc, /sys and /var/lib/dynatrace",
)
CONFLICTING_VOLUME: Final = SkipReason("ConflictingVolume", _WARN, "it has a volume with a reserved name", "rename it")
CONFLICTING_CONTAINER: Final = SkipReason(
    "ConflictingContainer", _WARN, "it has a container with a reserved name", "rename it"
)
CONFLICTING_MOUNTS: Final = SkipReason(
    "ConflictingMounts",
    _WARN,
    "all of its containers have their own mounts at the agent's paths",
    "set the annotation oneagent.dynatrace.com/install-path to another path",
)
LIMITS_TOO_LOW: Final = SkipReason(
    "LimitsTooLow",
    _WARN,
    "none of its containers has limits that are enough for the init container, and its namespace admits no higher ones",
    "raise the limits of a container, or the maximum in the LimitRange",
)
INCOMPLETE: Final = SkipReason(
    "InjectionIncomplete",
    _WARN,
    "a volume, a mount or the init container was removed or changed after its injection, so the rest was removed, too",
    "exempt volumes and mounts with the name oneagent-*, and the init container install-oneagent, from other webhooks",
)
TOO_LARGE: Final = SkipReason(
    "PodTooLarge",
    _WARN,
    "it is too large",
    "split it into several pods",
)
INVALID_POD: Final = SkipReason("InvalidPod", _WARN, "its manifest is invalid")
