"""What is known about a pod that is being created, besides its manifest; and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oneagent.common.kubernetes.events import Kind

Object = Mapping[str, Any]
"""A Kubernetes object as JSON; never changed by anybody who reads it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pod belongs to at the top of its chain of controllers; the pod itself if it has none."""

    kind: str
    """As its manifest writes it, e.g. `Deployment`; empty if it could not be found out"""
    name: str


@dataclass(frozen=True, slots=True)
class PodContext:
    namespace: str
    namespace_labels: Mapping[str, str]
    namespace_annotations: Mapping[str, str]
    dynakube: Object | None
    """The namespace's, in the newest version, with its status; None if the label names one that is not there"""
    workload: Workload
    cluster_id: str
    """UID of the namespace kube-system; empty if not known yet"""
    csi: bool
    """Whether a CSIDriver of our name is on the cluster"""
    driver_trouble: str = ""
    """Why pods go through unchanged for now (the circuit breaker), for people; empty if nothing is wrong"""


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event about the object that an admission was about, or about the DynaKube."""

    kind: Kind
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class InjectionResult:
    """What was decided about a pod."""

    injected: bool
    reason: str
    """A constant for annotation and metric; empty if injected"""
    patch: Sequence[Object] = ()
    """JSON patch operations (RFC 6902); none: the pod stays as it is"""
    warnings: Sequence[str] = ()
    """What kubectl shows"""
    notices: Sequence[Notice] = ()
