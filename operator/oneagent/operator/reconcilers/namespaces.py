"""Condition about the namespaces of a DynaKube, and about those that another DynaKube owns."""

from __future__ import annotations

from typing import Final

from oneagent.common import agents
from oneagent.common.dynakube import namespace_mapping
from oneagent.operator import reconcile_result
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

MAPPED: Final = "NamespacesMapped"
CONFLICT: Final = "NamespaceConflict"
PENDING: Final = "NamespacesPending"

_MAX_LISTED: Final = 5
_REQUEUE_SECONDS: Final = 2.0


class Namespaces:
    condition = "NamespaceMapping"

    def __init__(self, mapper: NamespaceMapper) -> None:
        self._mapper = mapper

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        claim = namespace_mapping.claim(context.obj, context.namespace)
        name = context.dynakube.name
        self._mapper.set_claim(name, claim if claim.selectors else None)
        if not claim.selectors:
            return None
        owned, conflicts = self._mapper.namespaces_of(name), self._mapper.conflicts(name)
        if conflicts:
            others = [f"{namespace} (owner: {agents.describe_object(owner)})" for namespace, owner in conflicts.items()]
            message = (
                "namespaces that match the namespaceSelector but have another owner, and stay with it: "
                f"{_join(others)}; change the selectors so that they do not overlap"
            )
            return reconcile_result.failed(CONFLICT, message)
        if problems := [problem for namespace, problem in self._mapper.problems.items() if namespace in owned]:
            return reconcile_result.failed(PENDING, f"cannot label namespaces: {_join(problems)}", _REQUEUE_SECONDS)
        if not self._mapper.is_synced(name):
            return reconcile_result.pending(PENDING, "namespaces are being labelled", _REQUEUE_SECONDS)
        return reconcile_result.ok(MAPPED, f"namespaces with the label {namespace_mapping.LABEL}={name}: {len(owned)}")

    async def finalize(self, context: ReconcileContext) -> None:
        """Remove the labels; running pods keep their agent."""
        self._mapper.set_claim(context.dynakube.name, None)
        await self._mapper.wait_until_synced(context.dynakube.name)
        self._mapper.forget(context.dynakube.name)


def _join(texts: list[str]) -> str:
    more = f" and {len(texts) - _MAX_LISTED} more" if len(texts) > _MAX_LISTED else ""
    return ", ".join(texts[:_MAX_LISTED]) + more
