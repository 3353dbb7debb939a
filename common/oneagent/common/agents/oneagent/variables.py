"""Environment variables of OneAgent: of containers with the agent, and of host agents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from oneagent.common.agents.profile import ContainerFacts
from oneagent.common.kubernetes import env

DEPLOYMENT: Final = "DT_DEPLOYMENT_METADATA"
_DEPLOYMENT_START: Final = "orchestration_tech=Operator-"
_NETWORK_ZONE: Final = "DT_NETWORK_ZONE"
_RELEASE: Final = "DT_RELEASE_"

# Of host agents.
NODE_NAME: Final = "DT_K8S_NODE_NAME"
CLUSTER_ID: Final = "DT_K8S_CLUSTER_ID"
TENANT: Final = "DT_TENANT"
SERVER: Final = "DT_SERVER"
OPERATOR_VERSION: Final = "DT_OPERATOR_VERSION"


def of_container(facts: ContainerFacts) -> Iterator[env.Entry]:
    """Yield variables with metadata that agents report."""
    metadata = f"{_DEPLOYMENT_START}{facts.orchestration};script_version={facts.webhook_version}"
    yield env.literal(DEPLOYMENT, f"{metadata};orchestrator_id={facts.cluster_id}")
    if facts.network_zone:
        yield env.literal(_NETWORK_ZONE, facts.network_zone)
    yield from _release(facts.release_fields)


def is_ours(variable: Mapping[str, object]) -> bool:
    """Return whether a variable is one of ours, by any DynaKube and any version."""
    return variable["name"] == DEPLOYMENT and str(variable.get("value")).startswith(_DEPLOYMENT_START)


def _release(fields: Iterable[tuple[str, str]]) -> Iterator[env.Entry]:
    for part, path in fields:
        yield env.field(f"{_RELEASE}{part.upper().replace('-', '_')}", path)
