"""Sections of a DynaKube that belong to other products: kept as they are, and said not to be acted on."""

from __future__ import annotations

from typing import Final

from oneagent.common.dynakube.api import fields
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.context import ReconcileContext

NOT_HANDLED: Final = "SectionsNotHandled"


class Sections:
    """Has a condition only where there is such a section; it is True, since nothing is wrong."""

    condition = "OtherProducts"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        found = [name for name in fields.OUT_OF_SCOPE if kubernetes_fields.at(context.obj, f"spec.{name}")]
        if not found:
            return None
        listed = ", ".join(f"spec.{name} ({fields.OUT_OF_SCOPE[name]})" for name in found)
        return reconcile_result.ok(NOT_HANDLED, f"kept, but not acted on here: {listed}")

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing was done."""
