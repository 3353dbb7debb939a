"""What a worker shows of errors that nobody has expected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

from oneagent.common.dynakube.tenant_config import CONDITION
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, reconcile_result, tenant_poller
from oneagent.operator.cache import Cache
from oneagent.operator.dynakube_worker import FAILED_RUN, FINALIZER, DynaKubeWorker
from oneagent.operator.rate_limit import RateLimiter
from oneagent.operator.reconcile_context import ReconcileContext, Reconciler
from oneagent.operator.reconcile_result import ReconcileResult
from tests.fakes.object_api import Objects

NAMESPACE = "dynatrace"
NAME = DynaKubeName("shop")
OLD_WORDS = {"type": "Tokens", "status": "Unknown", "reason": "TenantNotContacted", "message": "not yet"}


class Cluster(Objects):
    """Keeps each status that is applied, and puts it into the cache as a watch would."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.cache = cache
        self.written = asyncio.Condition()
        self.statuses: list[Mapping[str, Any]] = []

    async def apply(self, resource: api.Resource, obj: Mapping[str, Any], *, subresource: str = "") -> api.Object:
        async with self.written:
            self.statuses.append(obj["status"])
            self.cache.dynakubes[NAME] = {**self.cache.dynakubes[NAME], "status": obj["status"]}
            self.written.notify_all()
        return dict(obj)

    def conditions(self) -> dict[str, Mapping[str, Any]]:
        return {entry["type"]: entry for entry in self.statuses[-1]["conditions"]} if self.statuses else {}


class Odd(Reconciler):
    """Fails some times, then works."""

    condition = "Odd"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs: list[float] = []

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        self.runs.append(time.monotonic())
        if len(self.runs) <= self.failures:
            raise TypeError("of a certificate")
        return reconcile_result.ok("Works", "again")

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing."""


def worker(cluster: Cluster, *reconcilers: Reconciler) -> DynaKubeWorker:
    metadata = {"name": NAME, "namespace": NAMESPACE, "uid": "1", "finalizers": [FINALIZER]}
    cluster.cache.dynakubes[NAME] = {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": metadata,
        "spec": {"apiUrl": "http://127.0.0.1:1/api", "oneAgent": {"applicationMonitoring": {}}},
        "status": {"conditions": [OLD_WORDS]},
    }
    return DynaKubeWorker(
        NAME, api.dynakubes("v1beta6"), NAMESPACE, cast("api.Api", cluster), cluster.cache, reconcilers,
        RateLimiter(), tenant_poller.create_slots(), lambda *_: None, Registries(),
    )  # fmt: skip


async def _show_failed_run() -> None:
    cluster = Cluster(Cache())
    failures = [TypeError("of a Secret"), TypeError("of a Secret")]

    def fail(verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("find", "Secret") and failures:
            raise failures.pop()

    cluster.before = fail
    running = asyncio.create_task(worker(cluster, Odd(0)).run())
    async with asyncio.timeout(5), cluster.written:
        await cluster.written.wait_for(lambda: FAILED_RUN in cluster.conditions())
    shown = cluster.conditions()
    assert (shown[FAILED_RUN]["status"], shown[FAILED_RUN]["reason"]) == ("False", "InternalError")
    assert "TypeError: of a Secret" in shown[FAILED_RUN]["message"]
    assert shown[FAILED_RUN]["message"] in shown["Ready"]["message"]
    assert shown["Tokens"]["message"] == OLD_WORDS["message"]
    async with asyncio.timeout(15), cluster.written:
        await cluster.written.wait_for(lambda: FAILED_RUN not in cluster.conditions())
    assert cluster.conditions()["Odd"]["status"] == "True"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_run_that_fails_shows_why_within_seconds_until_one_succeeds() -> None:
    asyncio.run(_show_failed_run())


async def _retry_reconciler() -> list[float]:
    cluster, odd = Cluster(Cache()), Odd(2)
    running = asyncio.create_task(worker(cluster, odd).run())
    async with asyncio.timeout(20), cluster.written:
        await cluster.written.wait_for(lambda: cluster.conditions().get("Odd", {}).get("reason") == "InternalError")
        await cluster.written.wait_for(lambda: cluster.conditions()["Odd"]["status"] == "True")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return odd.runs


def test_a_reconciler_that_fails_is_repeated_with_back_off() -> None:
    assert len(asyncio.run(_retry_reconciler())) >= 3


class Marks(Reconciler):
    condition = CONDITION

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        return reconcile_result.pending("AnswersNotKnown", "the tenant has not been polled yet")

    async def finalize(self, context: ReconcileContext) -> None:
        """Nothing."""


async def _mark_before_the_first_poll() -> Mapping[str, Mapping[str, Any]]:
    cluster = Cluster(Cache())
    subject = worker(cluster, Odd(0), Marks())
    # Polls of the tenant wait: it has no place left.
    assert subject._poller._slots.acquire("http://127.0.0.1:1/api") is not None
    running = asyncio.create_task(subject.run())
    async with asyncio.timeout(10), cluster.written:
        await cluster.written.wait_for(lambda: CONDITION in cluster.conditions())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return cluster.conditions()


def test_nodes_are_told_at_once_that_the_operator_asks_and_other_conditions_of_an_earlier_one_stay() -> None:
    shown = asyncio.run(_mark_before_the_first_poll())
    assert shown[CONDITION]["status"] == "Unknown"
    assert shown["Tokens"]["message"] == OLD_WORDS["message"]
    assert "Odd" not in shown
