"""Condition of the endpoints that agents report to.

The last known endpoints stay in the status, so that agents also start while the tenant is down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.kubernetes import types
from oneagent.common.tenant import poll
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

READY: Final = "ConnectionInfoReady"
NO_ENDPOINT: Final = "NoEndpointForNetworkZone"
UNREACHABLE: Final = "TenantUnreachable"
TOKENS_REFUSED: Final = "TokensRefused"
REQUEST_FAILED: Final = "TenantRequestFailed"
NOT_POLLED: Final = "TenantNotContacted"

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


def decide(network_zone: str, known: Mapping[str, Any], state: TenantState) -> ReconcileResult:
    """`known` is the section of the current status."""
    if state.no_endpoint:
        return reconcile_result.failed(NO_ENDPOINT, poll.no_endpoint(network_zone))
    if state.tenant is not None:
        info = {"tenantUUID": state.tenant, "endpoints": ";".join(state.endpoints)}
        changed = {key: known.get(key) for key in info} != info
        last = None if changed else known.get("lastRequest")
        info["lastRequest"] = last or types.timestamp(state.polled_at)
        if state.problem:
            message = f"{state.problem}; the last known endpoints stay in use"
            return reconcile_result.failed(_reason(state), state.explain(message), **_fields(info))
        return reconcile_result.ok(READY, f"agents report to the tenant {state.tenant}", **_fields(info))
    if state.problem:
        return reconcile_result.failed(_reason(state), state.explain(state.problem), **_fields(known))
    return reconcile_result.pending(NOT_POLLED, "the tenant has not been polled yet", **_fields(known))


def _reason(state: TenantState) -> str:
    """Return the kind of a poll's failure: a tenant that rejects a token has been reached."""
    if state.token_rejected or state.token_invalid:
        return TOKENS_REFUSED
    return UNREACHABLE if state.is_unreachable else REQUEST_FAILED


def _fields(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"oneAgent": {_FIELD: dict(info)}} if info else {}
