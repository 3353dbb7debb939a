"""Condition of the agent versions on nodes: False while a node's last attempt to install one has failed.

The nodes' reports have it in their Leases, and keep it during a retry. So neither this condition nor `Ready`
changes with each attempt. `rollout_events` wakes the DynaKube for another failure at once, and for another number of
nodes with the same one after minutes, since each status goes to the watch of every node.
"""

from __future__ import annotations

from typing import Final

from oneagent.common import agents
from oneagent.operator import reconcile_result, rollout_events
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

INSTALLED: Final = "NoInstallFailed"


class AgentRollout:
    condition = rollout_events.CONDITION

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        if not (context.dynakube.needs_views and context.cache.csi_installed):
            return None
        tallies = list(rollout_events.tallies(context.dynakube.name, context.cache, context.now))
        failed = [tally for tally in tallies if tally.reason in rollout_events.PROBLEMS]
        if not failed:
            kind = agents.kind_of_object(context.dynakube.name)
            return reconcile_result.ok(INSTALLED, f"no node has failed to install this {kind}'s version")
        return reconcile_result.failed(failed[0].reason, "; ".join(tally.message for tally in failed))

    async def finalize(self, context: ReconcileContext) -> None:
        """The nodes' Leases go with the driver's pods."""
