"""The condition of the rollout follows the nodes' reports, and `Ready` follows it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.node_lease import DynaKubeReport, NodeReport
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.agent_rollout import AgentRollout
from oneagent.operator.rollout_events import FAILED, REFUSED
from oneagent.operator.status_writer import StatusWriter
from tests.fakes.provisioner import manifest


def reconcile(*states: str, csi: bool = True) -> ReconcileResult | None:
    kube = dynakube.from_object(manifest("demo", "https://abc.example/api"))
    reports = {
        f"oneagent-node.node-{number}": NodeReport((DynaKubeReport("demo", "1.290", state, "404 Not Found"),))
        for number, state in enumerate(states)
    }
    cache = Cache(node_reports=reports, csi_installed=csi)
    server = cast("api.Api", None)
    context = ReconcileContext(cast("Any", {}), kube, "dynatrace", server, cache, TenantState(), 0.0, {})
    return asyncio.run(AgentRollout().reconcile(context))


@pytest.mark.parametrize(("state", "reason"), [("failed", FAILED), ("refused", REFUSED)])
def test_a_node_that_failed_makes_the_dynakube_not_ready(state: str, reason: str) -> None:
    found = reconcile("ready", state, state)
    assert found is not None
    assert (found.status, found.reason) == ("False", reason)
    assert "on 2 of 3 nodes, as on node-1: 404 Not Found" in found.message
    assert reconcile_result.summarize({"AgentRollout": found}).status == "False"


@pytest.mark.parametrize("states", [(), ("ready",), ("ready", "pending")])
def test_progress_is_no_failure(states: tuple[str, ...]) -> None:
    found = reconcile(*states)
    assert found is not None
    assert found.status == "True"


def test_without_the_driver_there_is_no_rollout() -> None:
    assert reconcile("failed", csi=False) is None


def test_its_events_are_those_of_the_reports_alone() -> None:
    """They have the number of nodes; another one for the condition would say the same."""
    events: list[str] = []
    failed = reconcile("failed")
    assert failed is not None
    writer = StatusWriter(
        cast("api.Api", None), api.dynakubes("v1beta6"), "dynatrace", Cache(), lambda *event: events.append(event[2])
    )
    other = reconcile_result.failed("TokensError", "no token")
    writer._emit_events({"metadata": {"name": "demo"}}, [], {"AgentRollout": failed, "Tokens": other})
    assert events == ["TokensError"]
