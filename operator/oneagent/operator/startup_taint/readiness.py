"""Decides from the driver's metrics whether a node is ready to lose its startup taint.

The provisioner's metrics must show both:
* the versions that DynaKubes name are in the store, which a node with an outdated decision does not fulfil;
* the number of DynaKubes that are ready, which includes those whose version only the node finds out, as that of a
  local package.
An invalid DynaKube holds up no node: nodes install nothing for it.
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
DRIVER_UNREACHABLE: Final = "DriverUnreachable"
VERSIONS_MISSING: Final = "VersionsMissing"

_DYNAKUBES: Final = "oneagent_csi_dynakubes"
_STORE: Final = "oneagent_csi_store_bytes"


@dataclass(frozen=True, slots=True)
class DesiredContents:
    dynakubes: int
    """Number of DynaKubes that need a version in every node's store."""
    versions: frozenset[str]
    """Their versions, as far as known."""


@dataclass(frozen=True, slots=True)
class StoreContents:
    ready: int | None
    """Number of DynaKubes whose version is in the store; None before the driver has read DynaKubes."""
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class NodeState:
    has_pod: bool
    """The driver's DaemonSet has a pod for the node, in any state."""
    podless_seconds: float
    """Time without a pod."""
    is_registered: bool
    store: StoreContents | None
    problem: str
    """Reason why `store` is None."""


@dataclass(frozen=True, slots=True)
class Decision:
    remove: bool
    reason: str
    message: str


def desired_contents(objects: Iterable[Mapping[str, Any]]) -> DesiredContents:
    count, versions = 0, set[str]()
    for obj in objects:
        try:
            kube = dynakube.from_object(obj)
        except dynakube.DynaKubeError:
            continue
        if kube.needs_views:
            count += 1
            if version := kube.decided_version or kube.pinned_version:
                versions.add(version)
    return DesiredContents(count, frozenset(versions))


def read_metrics(metrics: str) -> StoreContents:
    """Parse the provisioner's metrics in Prometheus' text format; `ValueError` if invalid."""
    ready, versions = None, set[str]()
    try:
        samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
        for sample in samples:
            if sample.name == _DYNAKUBES and sample.labels.get("state") == "ready":
                ready = int(sample.value)
            elif sample.name == _STORE and sample.value > 0:
                versions.add(sample.labels.get("version", ""))
    except (ArithmeticError, LookupError, TypeError) as error:
        # The parser has no error class of its own.
        raise ValueError(f"no metrics: {error}") from error
    return StoreContents(ready, frozenset(versions))


def decide(node: NodeState, desired: DesiredContents, podless_timeout_seconds: float) -> Decision:
    """Decide whether pods may be scheduled on a node.

    A node without a pod of the DaemonSet never gets a driver, so it loses the taint after a timeout. All others keep
    it until their store has the desired versions, without a time limit.
    """
    if not node.has_pod:
        message = "the driver's DaemonSet has no pod for this node"
        if node.podless_seconds < podless_timeout_seconds:
            return Decision(False, NODE_WITHOUT_DRIVER, message)
        message += f" since {node.podless_seconds:.0f} seconds: pods can be scheduled, but get no agent from the driver"
        return Decision(True, NODE_WITHOUT_DRIVER, message)
    if not node.is_registered:
        message = "the driver is not registered on this node: check its pod and kubelet's log there"
        return Decision(False, DRIVER_NOT_REGISTERED, message)
    if node.store is None:
        message = f"cannot read the metrics of the driver's provisioner on this node: {node.problem}"
        return Decision(False, DRIVER_UNREACHABLE, message)
    if problem := missing(node.store, desired):
        return Decision(False, VERSIONS_MISSING, problem)
    return Decision(
        True, STARTUP_TAINT_REMOVED, "the driver is registered and all versions for DynaKubes are on this node"
    )


def missing(store: StoreContents, desired: DesiredContents) -> str:
    """Describe missing versions; empty if there are none."""
    if lacking := sorted(desired.versions - store.versions):
        return f"not in this node's store yet: {', '.join(lacking)}"
    if not desired.dynakubes:
        return ""
    if store.ready is None:
        return "the driver on this node has not read any DynaKubes yet"
    if store.ready < desired.dynakubes:
        return f"this node has the versions for {store.ready} of {desired.dynakubes} DynaKubes"
    return ""
