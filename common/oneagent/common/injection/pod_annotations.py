"""Annotations of pods and namespaces that control injection, and those that record its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Read. If a setting has several names, the first that is present counts.
INJECT: Final = "dynatrace.com/inject"
INJECT_AGENT: Final = "oneagent.dynatrace.com/inject"
INJECT_ENRICHMENT: Final = ("metadata-enrichment.dynatrace.com/inject", "data-ingest.dynatrace.com/inject")
INJECT_CONTAINER: Final = "container.inject.dynatrace.com/"
"""Followed by a container's name; on a pod or a DynaKube."""
INJECT_INIT_CONTAINERS: Final = "oneagent.dynatrace.com/inject-init-containers"
"""Switch for the agent in init containers that are no sidecars; with CSI only."""
INSTALL_PATH: Final = "oneagent.dynatrace.com/install-path"
FAILURE_POLICY: Final = "oneagent.dynatrace.com/failure-policy"
TECHNOLOGIES: Final = "oneagent.dynatrace.com/technologies"
FLAVOR: Final = "oneagent.dynatrace.com/flavor"
VERSION: Final = "oneagent.dynatrace.com/version"
BIN_SIZE: Final = "volume.dynatrace.com/oneagent-bin"
"""Size limit of the agent's directory without CSI."""
RELEASE: Final = "mapping.release.dynatrace.com/"
"""Followed by `version`, `product`, `stage` or `build-version`; on a namespace."""

# Written.
AGENT_INJECTED: Final = "oneagent.dynatrace.com/injected"
REASON: Final = "oneagent.dynatrace.com/reason"
ENRICHMENT_INJECTED: Final = "metadata-enrichment.dynatrace.com/injected"
DYNAKUBE_INJECTED: Final = "dynakube.dynatrace.com/injected"
HANDLED: Final = "oneagent.dynatrace.com/handled-containers"
"""Digest of the names of all containers that the webhook has considered."""

# Of others.
EVICTABLE: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
"""Names of emptyDir volumes, comma-separated: other ones keep the autoscaler from removing the node."""
MIRROR: Final = "kubernetes.io/config.mirror"
DEBUG: Final = ("debug.openshift.io/source-container", "debug.openshift.io/source-resource")

_SWITCHES: Final = {"true": True, "false": False}


def switch(annotations: Mapping[str, str], *keys: str) -> bool | None:
    """Value of the first key that is present; None if there is none, or if it is neither true nor false."""
    for key in keys:
        if key in annotations:
            return _SWITCHES.get(annotations[key].strip().lower())
    return None


def invalid_switch_warnings(annotations: Mapping[str, str]) -> list[str]:
    """Warnings about switches that are neither true nor false."""
    switches = (INJECT, INJECT_AGENT, INJECT_INIT_CONTAINERS, *INJECT_ENRICHMENT)
    return [
        f'annotation {key} is {annotations[key][:80]!r}, which is ignored: it must be "true" or "false"'
        for key in annotations
        if (key in switches or key.startswith(INJECT_CONTAINER)) and switch(annotations, key) is None
    ]
