"""What DynaKubes want in a node's store, what a node's driver says is in it, and what follows for the startup taint.

The driver's word are the metrics of its provisioner. Two of them have to agree: that the versions which DynaKubes
name are in the store, which a node can't say that has not seen the newest decision yet; and for how many DynaKubes
the node has what they want, which also tells of those whose version only the node finds out, as that of a local
package. A DynaKube that can't be read holds up no node: nodes install nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from oneagent.common import dynakube

STARTUP_TAINT_REMOVED: Final = "StartupTaintRemoved"
NODE_WITHOUT_DRIVER: Final = "NodeWithoutDriver"
DRIVER_NOT_REGISTERED: Final = "DriverNotRegistered"
DRIVER_NOT_ASKED: Final = "DriverNotAsked"
VERSIONS_MISSING: Final = "VersionsMissing"

_DYNAKUBES: Final = "oneagent_csi_dynakubes"
_STORE: Final = "oneagent_csi_store_bytes"


@dataclass(frozen=True, slots=True)
class Wanted:
    dynakubes: int
    """How many want a version in every node's store."""
    versions: frozenset[str]
    """Those of them that are known by name."""


@dataclass(frozen=True, slots=True)
class StoreContents:
    ready: int | None
    """For how many DynaKubes the wanted version is in the store; None if the driver has not seen DynaKubes yet."""
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of one node."""

    has_pod: bool
    """Whether the DaemonSet has a pod for it, in whatever state."""
    podless_seconds: float
    """How long it has been seen to have none."""
    registered: bool
    stock: StoreContents | None
    fault: str
    """Why there is no stock."""


@dataclass(frozen=True, slots=True)
class Decision:
    remove: bool
    reason: str
    message: str


def wanted(manifests: Iterable[Mapping[str, Any]]) -> Wanted:
    count, versions = 0, set[str]()
    for manifest in manifests:
        try:
            kube = dynakube.from_manifest(manifest)
        except dynakube.DynaKubeError:
            continue
        if kube.needs_app_views:
            count += 1
            if version := kube.wanted_version or kube.pinned_version:
                versions.add(version)
    return Wanted(count, frozenset(versions))


def read(metrics: str) -> StoreContents:
    """A provisioner's metrics in Prometheus' text format; `ValueError` if it is something else."""
    ready, versions = None, set[str]()
    try:
        samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
        for sample in samples:
            if sample.name == _DYNAKUBES and sample.labels.get("state") == "ready":
                ready = int(sample.value)
            elif sample.name == _STORE and sample.value > 0:
                versions.add(sample.labels.get("version", ""))
    except (ArithmeticError, LookupError, TypeError) as error:
        # The parser has no error of its own.
        raise ValueError(f"no metrics: {error}") from error
    return StoreContents(ready, frozenset(versions))


def decide(found: NodeState, want: Wanted, patience_seconds: float) -> Decision:
    """Whether pods may come to a node.

    One for which the DaemonSet makes no pod will never have a driver: it is not held back for longer than a
    DaemonSet may take for its pod. All others are held until they have what is wanted, however long that takes.
    """
    if not found.has_pod:
        message = "the driver's DaemonSet has no pod for this node"
        if found.podless_seconds < patience_seconds:
            return Decision(False, NODE_WITHOUT_DRIVER, message)
        message += f", for {found.podless_seconds:.0f} seconds now: pods may come, and get no agent by the driver"
        return Decision(True, NODE_WITHOUT_DRIVER, message)
    if not found.registered:
        message = "the driver is not registered on this node: look at its pod there and at kubelet's log"
        return Decision(False, DRIVER_NOT_REGISTERED, message)
    if found.stock is None:
        message = f"the driver's provisioner on this node can't be asked what is in its store: {found.fault}"
        return Decision(False, DRIVER_NOT_ASKED, message)
    if problem := missing(found.stock, want):
        return Decision(False, VERSIONS_MISSING, problem)
    return Decision(True, STARTUP_TAINT_REMOVED, "the driver is registered, and what DynaKubes want is on this node")


def missing(stock: StoreContents, want: Wanted) -> str:
    """What a store lacks, or ''."""
    if lacking := sorted(want.versions - stock.versions):
        return f"not in this node's store yet: {', '.join(lacking)}"
    if not want.dynakubes:
        return ""
    if stock.ready is None:
        return "the driver on this node has not seen any DynaKubes yet"
    if stock.ready < want.dynakubes:
        return f"this node has what {stock.ready} of {want.dynakubes} DynaKubes want"
    return ""
