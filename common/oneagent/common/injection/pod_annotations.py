"""The annotations by which pods and namespaces say what they want, and by which a pod tells what it got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Read. Of the names of one thing the first that is there counts.
INJECT: Final = "dynatrace.com/inject"
INJECT_AGENT: Final = "oneagent.dynatrace.com/inject"
INJECT_ENRICHMENT: Final = ("metadata-enrichment.dynatrace.com/inject", "data-ingest.dynatrace.com/inject")
INJECT_CONTAINER: Final = "container.inject.dynatrace.com/"
"""Followed by a container's name; on a pod or a DynaKube."""
INSTALL_PATH: Final = "oneagent.dynatrace.com/install-path"
FAILURE_POLICY: Final = "oneagent.dynatrace.com/failure-policy"
TECHNOLOGIES: Final = "oneagent.dynatrace.com/technologies"
FLAVOR: Final = "oneagent.dynatrace.com/flavor"
VERSION: Final = "oneagent.dynatrace.com/version"
BIN_SIZE: Final = "volume.dynatrace.com/oneagent-bin"
"""The most that the agent's folder may take where there is no CSI."""
RELEASE: Final = "mapping.release.dynatrace.com/"
"""Followed by `version`, `product`, `stage` or `build-version`; on a namespace."""

# Written.
AGENT_INJECTED: Final = "oneagent.dynatrace.com/injected"
REASON: Final = "oneagent.dynatrace.com/reason"
ENRICHMENT_INJECTED: Final = "metadata-enrichment.dynatrace.com/injected"
DYNAKUBE_INJECTED: Final = "dynakube.dynatrace.com/injected"
HANDLED: Final = "oneagent.dynatrace.com/handled-containers"
"""A digest of the names of all containers that have been looked at."""

# Of others.
EVICTABLE: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
"""Names of empty folders, with commas: a node with a pod that has others is not scaled down."""
MIRROR: Final = "kubernetes.io/config.mirror"
DEBUG: Final = ("debug.openshift.io/source-container", "debug.openshift.io/source-resource")

_SWITCHES: Final = {"true": True, "false": False}


def switch(annotations: Mapping[str, str], *keys: str) -> bool | None:
    """What the first of them says that is there; None if none is, or if it says neither."""
    for key in keys:
        if key in annotations:
            return _SWITCHES.get(annotations[key].strip().lower())
    return None


def unclear(annotations: Mapping[str, str]) -> list[str]:
    """What is said of switches that are neither on nor off: somebody wanted something by them."""
    switches = (INJECT, INJECT_AGENT, *INJECT_ENRICHMENT)
    return [
        f'annotation {key} is {annotations[key][:80]!r} and does nothing: it must be "true" or "false"'
        for key in annotations
        if (key in switches or key.startswith(INJECT_CONTAINER)) and switch(annotations, key) is None
    ]
