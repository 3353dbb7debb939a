"""Condition about sections of a DynaKube that belong to other products; they are stored and ignored."""

from __future__ import annotations

from typing import Final

from oneagent.common.dynakube.api import fields
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

NOT_HANDLED: Final = "SectionsNotHandled"


class UnsupportedSections:
    """The condition is True, and absent if the DynaKube has no such section."""

    condition = "OtherProducts"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        names = [name for name in fields.OUT_OF_SCOPE if kubernetes_fields.at(context.obj, f"spec.{name}")]
        if not names:
            return None
        listed = ", ".join(f"spec.{name} ({fields.OUT_OF_SCOPE[name]})" for name in names)
        return reconcile_result.ok(NOT_HANDLED, f"stored, but ignored by this operator: {listed}")

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing to remove."""
