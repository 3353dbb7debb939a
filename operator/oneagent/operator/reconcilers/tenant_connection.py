"""Where agents report to, kept as the tenant said it last: an agent that starts while it is away still reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.kubernetes import types
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.context import ReconcileContext

READY: Final = "ConnectionInfoReady"
NO_ENDPOINT: Final = "NoEndpointForNetworkZone"
UNREACHABLE: Final = "TenantUnreachable"
NOT_ASKED: Final = "TenantNotContacted"

_FIELD: Final = "connectionInfoStatus"


class Connection:
    condition = "OneAgentConnectionInfo"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        if not context.dynakube.api_url:
            return None
        known = context.section("oneAgent").get(_FIELD)
        return decide(context.dynakube.network_zone, known if isinstance(known, Mapping) else {}, context.tenant_state)

    async def finalize(self, context: ReconcileContext) -> None:
        """Only the status holds it."""


def decide(network_zone: str, known: Mapping[str, Any], facts: TenantState) -> ReconcileResult:
    """`known` is what the status holds from earlier."""
    if facts.no_endpoint:
        remedy = "correct the zone, or give it an ActiveGate"
        return reconcile_result.failed(
            NO_ENDPOINT, f"the tenant has no endpoint for spec.networkZone {network_zone!r}: {remedy}"
        )
    if facts.tenant is not None:
        info = {"tenantUUID": facts.tenant, "endpoints": ";".join(facts.endpoints)}
        changed = {key: known.get(key) for key in info} != info
        last = None if changed else known.get("lastRequest")
        info["lastRequest"] = last or types.timestamp(facts.polled_at)
        if facts.problem:
            return reconcile_result.failed(
                UNREACHABLE, f"{facts.problem}; what the tenant said last stays", **_fields(info)
            )
        return reconcile_result.ok(READY, f"agents report to the tenant {facts.tenant}", **_fields(info))
    if facts.problem:
        return reconcile_result.failed(UNREACHABLE, facts.problem, **_fields(known))
    return reconcile_result.pending(NOT_ASKED, "the tenant has not been asked yet", **_fields(known))


def _fields(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"oneAgent": {_FIELD: dict(info)}} if info else {}
