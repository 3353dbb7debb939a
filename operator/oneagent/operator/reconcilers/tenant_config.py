"""The Secret with the tenant's answers for nodes, and the condition by which nodes learn of it.

The Secret is written before the status that has its digest. So a node that reads it because of the digest finds this
content or a newer one. It stays while the tenant does not answer, and over a restart of the operator: what counts is
that the answers in it belong to the questions that the DynaKube has now.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.dynakube import tenant_config
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.tenant_secret import TenantSecretError
from oneagent.operator import api, reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.namespace_secrets import LABELS

READY: Final = "AnswersHandedOut"
NOT_KNOWN: Final = "AnswersNotKnown"
TOO_LARGE: Final = "AnswersTooLarge"
FOREIGN: Final = "SecretNotOwned"

_NONE: Final[Mapping[str, Any]] = {"codeModules": {tenant_config.FIELD: None}}


class TenantConfiguration:
    condition = tenant_config.CONDITION

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        kube = context.dynakube
        if not (kube.needs_views and kube.api_url and context.cache.csi_installed):
            if kube.tenant_config is not None:
                await self.finalize(context)
            return None
        name = tenant_secret.name(kube.name)
        stored = await context.api.find(api.SECRETS, name, context.namespace)
        if stored is not None and not _is_own(stored):
            return reconcile_result.failed(
                FOREIGN, f"the Secret {name} is not this operator's: give it another name, nodes need this one", **_NONE
            )
        before = _document(stored)
        document = _choose(context, before)
        if not document:
            return _without_answers(context)
        if document != before or not _is_owned_by(stored, kube.uid):
            try:
                content = tenant_secret.pack(document)
            except TenantSecretError as error:
                return reconcile_result.failed(TOO_LARGE, str(error), **_NONE)
            await context.api.apply(api.SECRETS, _secret(context, name, content))
        digest = tenant_secret.digest(document)
        message = f"nodes have the tenant's answers {digest} in the Secret {name}"
        return reconcile_result.ok(READY, message, codeModules={tenant_config.FIELD: digest})

    async def finalize(self, context: ReconcileContext) -> None:
        """Delete the Secret; views have what they need of it."""
        name = tenant_secret.name(context.dynakube.name)
        stored = await context.api.find(api.SECRETS, name, context.namespace)
        if stored is not None and _is_own(stored):
            await context.api.delete(api.SECRETS, name, context.namespace)


def _choose(context: ReconcileContext, before: bytes) -> bytes:
    """Return the document that nodes are to have; empty while no answers to the DynaKube's questions are known."""
    if tenant_secret.serves(context.tenant_state, context.dynakube):
        return tenant_secret.encode(context.tenant_state)
    try:
        return before if before and tenant_secret.serves(tenant_secret.decode(before), context.dynakube) else b""
    except TenantSecretError:
        return b""


def _without_answers(context: ReconcileContext) -> ReconcileResult:
    state = context.tenant_state
    message = f"agents cannot be configured yet: {state.obstacle}"
    if state.problem or state.no_endpoint:
        return reconcile_result.failed(NOT_KNOWN, message, **_NONE)
    return reconcile_result.pending(NOT_KNOWN, message, **_NONE)


def _document(stored: api.Object | None) -> bytes:
    """Return the document of the Secret; empty if it has none that can be read."""
    try:
        return tenant_secret.unpack(api.decode_data(stored)) if stored is not None else b""
    except TenantSecretError:
        return b""


def _is_own(stored: api.Object) -> bool:
    return LABELS.items() <= (stored["metadata"].get("labels") or {}).items()


def _is_owned_by(stored: api.Object | None, uid: str) -> bool:
    owners = stored["metadata"].get("ownerReferences") if stored is not None else None
    return any(owner.get("uid") == uid for owner in owners or ())


def _secret(context: ReconcileContext, name: str, content: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": context.namespace,
            "labels": LABELS,
            "ownerReferences": [context.owner],
        },
        "type": "Opaque",
        "data": {tenant_secret.KEY: base64.b64encode(content.encode()).decode()},
    }
