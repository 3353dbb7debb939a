"""Which namespaces a DynaKube has, and which it would have if they were not another's."""

from __future__ import annotations

from typing import Final

from oneagent.common.dynakube import namespace_mapping
from oneagent.operator import reconcile_result
from oneagent.operator.namespace_mapper import Mapper
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.context import ReconcileContext

MAPPED: Final = "NamespacesMapped"
CONFLICT: Final = "NamespaceConflict"
PENDING: Final = "NamespacesPending"

_MOST_NAMED: Final = 5
_LOOK_AGAIN_SECONDS: Final = 2.0


class Namespaces:
    condition = "NamespaceMapping"

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        claim = namespace_mapping.claim(context.obj, context.namespace)
        name = context.dynakube.name
        self._mapper.claim(name, claim if claim.selectors else None)
        if not claim.selectors:
            return None
        owned, refused = self._mapper.owned(name), self._mapper.refused(name)
        if refused:
            others = [f"{namespace} (has {owner})" for namespace, owner in refused.items()]
            message = (
                f"{len(refused)} of the namespaces that the selector matches belong to another DynaKube and stay "
                f"with it: {_listed(others)}; make the namespaceSelectors of the two differ"
            )
            return reconcile_result.failed(CONFLICT, message)
        if problems := [problem for namespace, problem in self._mapper.problems.items() if namespace in owned]:
            return reconcile_result.failed(
                PENDING, f"namespaces can't be labelled: {_listed(problems)}", _LOOK_AGAIN_SECONDS
            )
        if not self._mapper.settled(name):
            return reconcile_result.pending(PENDING, "namespaces are being labelled", _LOOK_AGAIN_SECONDS)
        return reconcile_result.ok(MAPPED, f"{len(owned)} namespaces have the label {namespace_mapping.LABEL}={name}")

    async def finalize(self, context: ReconcileContext) -> None:
        """The labels go; pods that run keep what they have."""
        self._mapper.claim(context.dynakube.name, None)
        await self._mapper.wait_settled(context.dynakube.name)
        self._mapper.forget(context.dynakube.name)


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return ", ".join(texts[:_MOST_NAMED]) + more
