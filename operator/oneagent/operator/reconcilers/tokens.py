"""The tokens: there, without white space, known to the tenant, and with the scope that downloads need."""

from __future__ import annotations

from typing import Final

from oneagent.common.tenant import poll
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.context import ReconcileContext

READY: Final = "TokensReady"
ERROR: Final = "TokensError"
NOT_ASKED: Final = "TenantNotContacted"


class Tokens:
    condition = "Tokens"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        return decide(context.dynakube.api_url, context.dynakube.tokens_secret, context.tenant_state)

    async def finalize(self, context: ReconcileContext) -> None:
        """Tokens are the user's."""


def decide(api_url: str, secret: str, facts: TenantState) -> ReconcileResult | None:
    """Of a problem only what is one of tokens; the rest is the connection's."""
    if not api_url:
        return None
    if not facts.polled_at:
        return reconcile_result.pending(NOT_ASKED, "the tenant has not been asked yet")
    if wrong := _wrong(f"the Secret {secret}", facts):
        return reconcile_result.failed(ERROR, wrong)
    if facts.scopes is not None:
        return reconcile_result.ok(READY, "the tenant takes the token, and it has the scopes that are needed")
    if facts.problem:
        return reconcile_result.pending(NOT_ASKED, f"the tenant does not answer: {facts.problem}")
    return reconcile_result.ok(READY, "the tenant takes the token; which scopes it has, the tenant does not tell")


def _wrong(where: str, facts: TenantState) -> str:
    if facts.token_rejected:
        return f"the tenant refuses the token: {facts.problem}; put a valid one into {where}"
    if facts.token_invalid:
        return f"{facts.problem}; correct {where}"
    if facts.scopes is not None and poll.REQUIRED_SCOPE not in facts.scopes:
        has = ", ".join(sorted(facts.scopes)) or "none"
        return f"the token lacks the scope {poll.REQUIRED_SCOPE} (it has: {has}); add it, or renew the token in {where}"
    return ""
