"""Condition about the driver, without which pods of an OpenTelemetryInjection get no agent."""

from __future__ import annotations

from typing import Final

from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers import injection_secret

NOT_INSTALLED: Final = "DriverNotInstalled"


class DriverNeeded:
    condition = injection_secret.InjectionSecrets.condition

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        if injection_secret.uses_csi(context):
            return reconcile_result.ok(injection_secret.BY_CSI, "pods get their agent from CSI volumes")
        return reconcile_result.failed(NOT_INSTALLED, "the cluster has no CSI driver: install it with the chart")

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing to remove."""
