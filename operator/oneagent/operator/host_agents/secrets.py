"""The Secrets of a DynaKube's host agents, in the operator's namespace.

The first one has the DaemonSet's name. It holds secrets, and values that may change without restarting agents: they
receive new endpoints from the tenant, and an operator upgrade must not restart every agent of a cluster. The second
one lets kubelet pull from the tenant's registry.
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


def name(kube: dynakube.DynaKube) -> str:
    return f"{kube.name}-oneagent"


def pull_name(kube: dynakube.DynaKube) -> str:
    return f"{kube.name}-pull-secret"


def build_contents(kube: dynakube.DynaKube, inputs: HostAgentInputs) -> dict[str, str]:
    metadata = f"orchestration_tech=Operator-{kube.mode.orchestration}"
    metadata += f";script_version={inputs.operator_version};orchestrator_id={inputs.cluster_id}"
    return {
        TENANT_TOKEN: inputs.tenant_token,
        SERVER: ";".join(inputs.endpoints),
        METADATA: metadata,
        OPERATOR_VERSION: inputs.operator_version,
        **({PROXY: kube.proxy} if kube.proxy else {}),
    }


def build_pull_contents(kube: dynakube.DynaKube, inputs: HostAgentInputs) -> dict[str, str]:
    user, password = str(inputs.tenant), inputs.registry_password
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    entry = {"username": user, "password": password, "auth": auth}
    return {".dockerconfigjson": json.dumps({"auths": {image.registry(kube): entry}}, sort_keys=True)}


def encode(data: Mapping[str, str]) -> dict[str, str]:
    """Encode the values as in a Secret's `data`."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())}


def restart_digest(kube: dynakube.DynaKube, inputs: HostAgentInputs, *, has_proxy: bool) -> str:
    """Return the hash of the secrets that a running agent reads only at its start."""
    parts = (kube.uid, inputs.tenant_token, inputs.proxy if has_proxy else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(kind: str, metadata: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": dict(metadata), "data": encode(data)}
