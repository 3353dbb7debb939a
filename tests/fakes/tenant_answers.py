"""The operator's part for nodes: a tenant's answers in a Secret, and what the DynaKube's status says of them."""

from __future__ import annotations

import copy
from typing import Any

from oneagent.common import dynakube
from oneagent.common.dynakube.tenant_config import CONDITION, FIELD
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.poll import TenantState
from oneagent.common.tenant.tenant_secret import KEY
from tests.fakes import tenant
from tests.fakes.provisioner import FakeDynaKubeSource


def answers(manifest: dict[str, Any], server: tenant.Tenant, token: str = "") -> TenantState:
    """Return the answers that the operator gets from a tenant for a DynaKube."""
    return TenantState(
        questions=dynakube.from_object(manifest).tenant_questions,
        tenant=TenantId(server.tenant),
        tenant_token=token or server.tenant_token,
        endpoints=tuple(server.endpoints),
        complete=True,
    )


def secret_data(state: TenantState) -> dict[str, str]:
    return {KEY: tenant_secret.pack(tenant_secret.encode(state))}


def marked(manifest: dict[str, Any], state: TenantState | None = None, reason: str = "") -> dict[str, Any]:
    """The DynaKube with these answers for nodes, without any for a reason, or before the first question."""
    found = copy.deepcopy(manifest)
    status = "True" if state else "False" if reason else "Unknown"
    message = reason or "the tenant has not been polled yet"
    found["status"]["conditions"] = [{"type": CONDITION, "status": status, "message": message}]
    digest = tenant_secret.digest(tenant_secret.encode(state)) if state else None
    found["status"].setdefault("codeModules", {})[FIELD] = digest
    return found


def hand_out(source: FakeDynaKubeSource, manifest: dict[str, Any], state: TenantState) -> None:
    """Write the Secret, then the status, as the operator does."""
    source.secrets[tenant_secret.name(DynaKubeName(manifest["metadata"]["name"]))] = secret_data(state)
    source.put(marked(manifest, state))
