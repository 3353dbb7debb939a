"""Types of the injection: the context of a new pod, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oneagent.common.kubernetes.events import Kind
from oneagent.webhook.injection.namespace_limits import Rules

Object = Mapping[str, Any]
"""A Kubernetes object as JSON; readers never change it"""


@dataclass(frozen=True, slots=True)
class Workload:
    """The top of a pod's chain of controllers; the pod itself if it has none."""

    kind: str
    """As in its manifest, e.g. `Deployment`; empty if unknown"""
    name: str


@dataclass(frozen=True, slots=True)
class PodContext:
    namespace: str
    namespace_labels: Mapping[str, str]
    namespace_annotations: Mapping[str, str]
    dynakube: Object | None
    """The namespace's DynaKube in the newest version, with its status; None if the label names a missing one"""
    workload: Workload
    cluster_id: str
    """UID of the namespace kube-system; empty before it is read"""
    csi: bool
    """The cluster has our CSIDriver object"""
    limits: Sequence[Rules] | None = ()
    """LimitRanges and quotas of the namespace; None if they are not known"""
    driver_problem: str = ""
    """Reason of the open circuit breaker, for users; empty while it is closed"""


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event about the admitted object or the DynaKube."""

    kind: Kind
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class InjectionResult:
    """The decision about a pod."""

    injected: bool
    reason: str
    """A constant for annotation and metric; empty if injected"""
    patch: Sequence[Object] = ()
    """JSON patch operations (RFC 6902); empty if the pod stays unchanged"""
    warnings: Sequence[str] = ()
    """Shown by kubectl"""
    notices: Sequence[Notice] = ()
