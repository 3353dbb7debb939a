"""Where a field was in older versions: the one table that older schemas and the conversion come from.

A field without a move stays where it is, also one that only newer versions have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final

from oneagent.common.dynakube.api import feature_flags, fields, json_path, schema, versions
from oneagent.common.dynakube.api.change_kinds import (
    Dropped,
    Filled,
    Inverted,
    Joined,
    Move,
    Noted,
    Renamed,
    Respelled,
    Spread,
    Switched,
    Typed,
)
from oneagent.common.dynakube.api.schema import Schema
from oneagent.common.dynakube.mode import MODES, Mode

AUTO_UPDATE: Final = "conversion.internal.dynatrace.com/auto-update"
"""Annotation of an object of the newest version: what `autoUpdate` of older versions said, `true` or `false`."""

WITH_SHORT_VERSIONS: Final = ("v1alpha1", "v1beta1")
"""Where an agent's version may lack the build's time: the operator looked up the rest."""


def _read_switch(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.strip().lower())


def _read_minutes(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535 else None


def _each(modes: tuple[Mode, ...], field: str) -> tuple[str, ...]:
    return tuple(f"spec.oneAgent.{mode}.{field}" for mode in modes)


_AUTO_UPDATE: Final = schema.switch("Deprecated. Update host agents to the tenant's latest version.")
_USE_CSI_DRIVER: Final = f"spec.oneAgent.{Mode.APPLICATION_MONITORING}.useCSIDriver"

# The moves of an object of a version on its way to the next one; backwards in the reverse order.
MOVES: Final[Mapping[str, tuple[Move, ...]]] = {
    "v1alpha1": (
        Renamed("spec.codeModules.resources", "spec.codeModules.initResources"),
        Joined(
            "spec.infraMonitoring",
            "spec.codeModules",
            "spec.oneAgent.cloudNativeFullStack",
            frozenset(
                (
                    "initResources",
                    "codeModulesImage",
                    "codeModulesImagePullPolicy",
                    "codeModulesVersion",
                    "namespaceSelector",
                    "useCSIDriver",
                    "volume",
                )
            ),
        ),
        Switched("spec.classicFullStack", "spec.oneAgent.classicFullStack"),
        Switched("spec.infraMonitoring", "spec.oneAgent.hostMonitoring"),
        Switched("spec.codeModules", "spec.oneAgent.applicationMonitoring"),
        *(
            Renamed(f"spec.oneAgent.{mode}.resources", f"spec.oneAgent.{mode}.oneAgentResources")
            for mode in fields.HOST_MODES
        ),
        Spread("spec.oneAgent.image", _each(fields.HOST_MODES, "image")),
        Spread("spec.oneAgent.version", _each(MODES, "version")),
        Spread("spec.oneAgent.autoUpdate", _each(fields.HOST_MODES, "autoUpdate")),
        *(
            Dropped(path, field)
            for name, field in (
                ("serviceAccountName", schema.text("Without effect: the operator knows the service account.")),
                ("useImmutableImage", schema.switch("Without effect: images are never changed in place.")),
                ("useUnprivilegedMode", schema.switch("Without effect: host agents are unprivileged.")),
                ("waitReadySeconds", schema.number("Without effect: rollouts wait for readiness.")),
            )
            for path in _each(fields.HOST_MODES, name)
        ),
        *(
            Dropped(path, schema.anything("Without effect: volume with the agent."))
            for path in _each(fields.INJECTING_MODES, "volume")
        ),
        Inverted(_USE_CSI_DRIVER, before=True, after=False, field=fields.USE_CSI_DRIVER),
        Renamed("status.connectionInfo", "status.oneAgent.connectionInfoStatus"),
    ),
    "v1beta1": (
        Respelled(),
        Inverted(
            _USE_CSI_DRIVER,
            before=False,
            after=True,
            field=schema.switch(
                "Mount the agent into pods with the CSI driver; if false, an init container "
                "downloads it. If not set, false."
            ),
        ),
        Typed(
            "metadata-enrichment",
            "spec.metadataEnrichment.enabled",
            _read_switch,
            meant=True,
            means=None,
            sections=tuple(f"spec.oneAgent.{mode}" for mode in fields.INJECTING_MODES),
            unused=False,
        ),
        Spread(
            "spec.namespaceSelector",
            (*_each(fields.INJECTING_MODES, "namespaceSelector"), "spec.metadataEnrichment.namespaceSelector"),
        ),
        Typed(
            "dynatrace-api-request-threshold", "spec.dynatraceApiRequestThreshold", _read_minutes, meant=15, means=15
        ),
        Spread(feature_flags.annotation("oneagent-seccomp-profile"), _each(fields.HOST_MODES, "secCompProfile")),
        Renamed("status.lastTokenProbeTimestamp", "status.dynatraceApi.lastTokenScopeRequest"),
    ),
    "v1beta2": (),
    "v1beta3": (),
    "v1beta4": (
        Renamed("spec.activeGate.persistentVolumeClaim", "spec.activeGate.volumeClaimTemplate"),
        Filled("spec.kspm.mappedHostPaths", ["/"]),
    ),
    "v1beta5": (
        Renamed("spec.extensions", "spec.extensions.prometheus"),
        Noted(_each(fields.HOST_MODES, "autoUpdate"), AUTO_UPDATE, _AUTO_UPDATE),
    ),
}


def renamed(path: str) -> tuple[str, ...]:
    """Return the places in the newest version of a field that older versions have elsewhere; empty if it has none."""
    places = {path}
    for version in versions.VERSIONS[:-1]:
        for move in MOVES[version]:
            if isinstance(move, Renamed | Switched | Spread):
                places = {target for place in places for target in _follow(move, place)}
    return tuple(sorted(places - {path}))


def _follow(move: Renamed | Switched | Spread, place: str) -> tuple[str, ...]:
    targets = move.new if isinstance(move, Spread) else (move.new,)
    if place == move.old or place.startswith(f"{move.old}."):
        return tuple(target + place.removeprefix(move.old) for target in targets)
    return (place,)


@functools.cache
def described(version: str) -> Schema:
    """The schema of a version, made from the newest one. Not to be changed."""
    found = json_path.copy_tree(fields.DYNAKUBE)
    for step in reversed(versions.VERSIONS[versions.VERSIONS.index(version) : -1]):
        for move in reversed(MOVES[step]):
            move.reshape(found)
    return found
