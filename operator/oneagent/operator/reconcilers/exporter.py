"""Condition about the exporter of an OpenTelemetryInjection: where telemetry goes, its headers and its CA.

Nodes read the objects with these themselves. The status has a digest of their versions, so that nodes read them again
soon after a change. It is not one of their contents: a weak password could be guessed by it.
"""

from __future__ import annotations

from typing import Final

from oneagent.common.agents.opentelemetry import injection
from oneagent.common.tenant import inputs
from oneagent.operator import reconcile_result
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

CONFIGURED: Final = "ExporterConfigured"
UNUSABLE: Final = "ExporterUnusable"
NOT_READ: Final = "ExporterNotRead"

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Exporter:
    condition = "Exporter"

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        telemetry, state = context.dynakube.telemetry, context.tenant_state
        if telemetry is None:
            return None
        named = sorted(inputs.exporter_objects(context.dynakube))
        if named and not state.polled_at:
            listed = " and ".join(f"the {kind} {name}" for kind, name in named)
            return reconcile_result.pending(NOT_READ, f"the exporter's settings have not been read yet: {listed}")
        if named and state.problem:
            return reconcile_result.failed(UNUSABLE, state.problem)
        endpoint = dict(telemetry.variables).get(_ENDPOINT, "")
        # Without one, agents use that of the specification.
        where = f"to {endpoint}" if endpoint else "to localhost, where pods need a collector: or set exporter.endpoint"
        authority = telemetry.authority
        trust = f", and trust the CA of the {authority.kind} {authority.name}" if authority is not None else ""
        digest = state.exporter_inputs if named else ""
        status = {injection.INPUTS: digest or None}
        return reconcile_result.ok(CONFIGURED, f"agents send {where}{trust}", codeModules=status)

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing to remove."""
