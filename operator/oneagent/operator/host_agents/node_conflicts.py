"""Which DynaKube's host agents have which nodes: two on one node would both take it for theirs.

The older DynaKube has the nodes that both select. Selectors that no present node matches both of are no conflict
as long as a node that the one selects need not be one of the other's.
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
"""Names and labels."""

OS: Final = "kubernetes.io/os"
ARCH: Final = "kubernetes.io/arch"
ARCHITECTURES: Final = ("amd64", "arm64", "ppc64le", "s390x")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a DynaKube's host agents select."""

    dynakube: str
    created: str
    """When the DynaKube was, as the API server writes it: as text it sorts by time."""
    selector: Selector

    @property
    def age(self) -> tuple[str, str]:
        """Smaller is older. What the API server has not seen yet is younger than everything."""
        return self.created or "~", self.dynakube


@dataclass(frozen=True, slots=True)
class Overlap:
    nodes: tuple[str, ...]
    """Present nodes that both select, sorted; none if only the selectors tell."""


def claim(obj: Mapping[str, Any]) -> Claim | None:
    """What a DynaKube claims; None if it has no host agents, or none that can be understood."""
    try:
        kube = dynakube.from_manifest(obj)
        if not spec.has_host_agents(kube.mode):
            return None
        selector = spec.texts(obj, f"{spec.section(kube.mode)}.nodeSelector")
        created = kubernetes_fields.text(obj, "metadata.creationTimestamp")
    except kubernetes_fields.FieldError:
        return None
    return Claim(kube.name, created, selector)


def oldest_conflicting(mine: Claim, others: Iterable[Claim], nodes: Nodes) -> tuple[Claim, Overlap] | None:
    """The oldest of those before whom this one has to stand back, and what both select."""
    for other in sorted(others, key=lambda claim: claim.age):
        if other.dynakube != mine.dynakube and other.age < mine.age:
            found = overlap(mine.selector, other.selector, nodes)
            if found:
                return other, found
    return None


def overlap(one: Selector, two: Selector, nodes: Nodes) -> Overlap | None:
    both = tuple(sorted(name for name, labels in nodes.items() if _runs(labels, one) and _runs(labels, two)))
    if both or one.items() <= two.items() or two.items() <= one.items():
        return Overlap(both)
    return None


def _runs(labels: Mapping[str, str], selector: Selector) -> bool:
    """Whether a host agent with this selector runs on a node with these labels."""
    fits = labels.get(OS, "linux") == "linux" and labels.get(ARCH, ARCHITECTURES[0]) in ARCHITECTURES
    return fits and selector.items() <= labels.items()
