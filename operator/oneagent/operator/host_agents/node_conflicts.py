"""Conflicts between DynaKubes whose host agents select the same nodes.

A node can have one host agent. The older DynaKube gets the nodes that both select. Two selectors also conflict if
one implies the other, even while no node matches both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import dynakube
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.operator.host_agents import spec

Selector = Mapping[str, str]
Nodes = Mapping[str, Mapping[str, str]]
"""Labels by node name."""

OS: Final = "kubernetes.io/os"
ARCH: Final = "kubernetes.io/arch"
ARCHITECTURES: Final = ("amd64", "arm64", "ppc64le", "s390x")


@dataclass(frozen=True, slots=True)
class Claim:
    """Node selector of a DynaKube's host agents."""

    dynakube: str
    created: str
    """Creation time as the API server writes it: as text it sorts by time."""
    selector: Selector

    @property
    def age(self) -> tuple[str, str]:
        """Smaller is older. An object without a creation time is the youngest."""
        return self.created or "~", self.dynakube


@dataclass(frozen=True, slots=True)
class Overlap:
    nodes: tuple[str, ...]
    """Existing nodes that both select, sorted; empty if only the selectors conflict."""


def claim(obj: Mapping[str, Any]) -> Claim | None:
    """Return the claim of a DynaKube; None if it has no host agents or an invalid field."""
    try:
        kube = dynakube.from_object(obj)
        if not kube.mode.runs_on_hosts:
            return None
        selector = spec.texts(obj, f"{spec.section(kube.mode)}.nodeSelector")
        created = kubernetes_fields.text(obj, "metadata.creationTimestamp")
    except kubernetes_fields.FieldError:
        return None
    return Claim(kube.name, created, selector)


def oldest_conflicting(mine: Claim, others: Iterable[Claim], nodes: Nodes) -> tuple[Claim, Overlap] | None:
    """Return the oldest claim that is older and overlaps with `mine`, and the overlap."""
    for other in sorted(others, key=lambda claim: claim.age):
        if other.dynakube != mine.dynakube and other.age < mine.age:
            shared = overlap(mine.selector, other.selector, nodes)
            if shared:
                return other, shared
    return None


def overlap(one: Selector, two: Selector, nodes: Nodes) -> Overlap | None:
    both = tuple(sorted(name for name, labels in nodes.items() if _runs_on(labels, one) and _runs_on(labels, two)))
    if both or one.items() <= two.items() or two.items() <= one.items():
        return Overlap(both)
    return None


def _runs_on(labels: Mapping[str, str], selector: Selector) -> bool:
    """True if a host agent with this selector runs on a node with these labels."""
    fits = labels.get(OS, "linux") == "linux" and labels.get(ARCH, ARCHITECTURES[0]) in ARCHITECTURES
    return fits and selector.items() <= labels.items()
