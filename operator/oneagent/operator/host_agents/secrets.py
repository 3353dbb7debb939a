"""The Secrets of a DynaKube's host agents, in the operator's namespace.

The one is called as the DaemonSet. It holds what must not be read in a manifest, and what may change without
restarting agents: they learn new endpoints by themselves, and an operator's new version is no reason to restart
every agent of a cluster. The other lets kubelet pull from the tenant's registry.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from oneagent.common import dynakube
from oneagent.operator.host_agents import image
from oneagent.operator.host_agents.inputs import HostAgentInputs

TENANT_TOKEN: Final = "tenant-token"  # noqa: S105
SERVER: Final = "communication-endpoints"
METADATA: Final = "deployment-metadata"
OPERATOR_VERSION: Final = "operator-version"
PROXY: Final = "proxy"

_TECHNOLOGIES: Final[Mapping[dynakube.Mode, str]] = {
    "classicFullStack": "classic_fullstack",
    "hostMonitoring": "host_monitoring",
    "cloudNativeFullStack": "cloud_native_fullstack",
}


def name(kube: dynakube.DynaKube) -> str:
    return f"{kube.name}-oneagent"


def pull_name(kube: dynakube.DynaKube) -> str:
    return f"{kube.name}-pull-secret"


def contents(kube: dynakube.DynaKube, facts: HostAgentInputs) -> dict[str, str]:
    told = f"orchestration_tech=Operator-{_TECHNOLOGIES.get(kube.mode, kube.mode)}"
    told += f";script_version={facts.operator_version};orchestrator_id={facts.cluster_id}"
    return {
        TENANT_TOKEN: facts.tenant_token,
        SERVER: ";".join(facts.endpoints),
        METADATA: told,
        OPERATOR_VERSION: facts.operator_version,
        **({PROXY: kube.proxy} if kube.proxy else {}),
    }


def pull_contents(kube: dynakube.DynaKube, facts: HostAgentInputs) -> dict[str, str]:
    user, password = str(facts.tenant), facts.registry_password
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    entry = {"username": user, "password": password, "auth": auth}
    return {".dockerconfigjson": json.dumps({"auths": {image.registry(kube): entry}}, sort_keys=True)}


def encoded(data: Mapping[str, str]) -> dict[str, str]:
    """As the API server has it."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())}


def restart_digest(kube: dynakube.DynaKube, facts: HostAgentInputs, *, has_proxy: bool) -> str:
    """Of the secrets that a running agent does not learn by itself; tells nothing of them."""
    parts = (kube.uid, facts.tenant_token, facts.proxy if has_proxy else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def manifest(kind: str, metadata: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": dict(metadata), "data": encoded(data)}
