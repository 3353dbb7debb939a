"""The condition of the connection: what kind of failure it is, and the endpoints that stay in use."""

from __future__ import annotations

import dataclasses

import pytest

from oneagent.common.identifiers import TenantId
from oneagent.common.tenant.poll import TenantState
from oneagent.operator.reconcilers import tenant_connection

KNOWN = {"tenantUUID": "abc12345", "endpoints": "https://e.example"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (TenantState(1.0, problem="401: token expired", token_rejected=True), tenant_connection.TOKENS_REFUSED),
        (TenantState(1.0, problem="the Secret shop is missing", token_invalid=True), tenant_connection.TOKENS_REFUSED),
        (TenantState(1.0, problem="connection refused", is_unreachable=True), tenant_connection.UNREACHABLE),
        (TenantState(1.0, problem="500: internal error"), tenant_connection.REQUEST_FAILED),
    ],
)
@pytest.mark.parametrize("tenant", [None, TenantId("abc12345")])
def test_a_tenant_that_refuses_a_token_was_reached(state: TenantState, reason: str, tenant: TenantId | None) -> None:
    found = tenant_connection.decide("", KNOWN, dataclasses.replace(state, tenant=tenant))
    assert (found.status, found.reason) == ("False", reason)
    assert state.problem in found.message
    assert "connectionInfoStatus" in found.fields["oneAgent"]
