"""Condition of the tokens: present, well-formed, accepted by the tenant, with the scope for downloads."""

from __future__ import annotations

from typing import Final

from oneagent.common.tenant import poll
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

READY: Final = "TokensReady"
ERROR: Final = "TokensError"
NOT_POLLED: Final = "TenantNotContacted"

_PAAS_TOKEN_NOTE: Final = (
    f"paasToken, which is used, is deprecated: give apiToken the scope {poll.REQUIRED_SCOPE} and remove paasToken"
)


class Tokens:
    condition = "Tokens"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        return decide(context.dynakube.api_url, context.dynakube.tokens_secret, context.tenant_state)

    async def finalize(self, context: ReconcileContext) -> None:
        """Tokens are the user's."""


def decide(api_url: str, secret: str, state: TenantState) -> ReconcileResult | None:
    """Report problems of the tokens only; `tenant_connection` reports the rest."""
    if not api_url:
        return None
    if not state.polled_at:
        return reconcile_result.pending(NOT_POLLED, "the tenant has not been polled yet")
    if problem := _find_problem(f"the Secret {secret}", state):
        return reconcile_result.failed(ERROR, problem)
    note = f"; {_PAAS_TOKEN_NOTE}" if state.uses_paas_token else ""
    if state.scopes is not None:
        return reconcile_result.ok(READY, f"the tenant accepts the token, and it has the required scopes{note}")
    if state.problem:
        return reconcile_result.pending(NOT_POLLED, state.explain(f"the poll of the tenant failed: {state.problem}"))
    unknown = "it does not report the token's scopes"
    if state.scopes_problem:
        unknown = f"the token's scopes are not known: {state.scopes_problem}"
    return reconcile_result.ok(READY, f"the tenant accepts the token; {unknown}{note}")


def _find_problem(where: str, state: TenantState) -> str:
    if state.token_rejected:
        return f"the tenant rejects the token: {state.problem}; put a valid token into {where}"
    if state.token_invalid:
        return state.problem if where in state.problem else f"{state.problem}; correct {where}"
    if state.scopes is not None and poll.REQUIRED_SCOPE not in state.scopes:
        has = ", ".join(sorted(state.scopes)) or "none"
        return f"the token lacks the scope {poll.REQUIRED_SCOPE} (it has: {has}); add it, or renew the token in {where}"
    return ""
