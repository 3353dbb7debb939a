from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from oneagent.common.dynakube import namespace_mapping
from oneagent.webhook import cache
from oneagent.webhook.cache import circuit_breaker
from oneagent.webhook.injection.inputs import Notice, PodContext, Workload
from tests.fakes import kube_api
from tests.unit.webhook.following import FIRST_PAUSE, connected, eventually, running

WATCHES = 9
LIMITS = circuit_breaker.Limits(failures=2, window_seconds=300, grace_seconds=30)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Seen:
    """A cluster that follows the API server, and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.told: list[tuple[str, Notice]] = []
        self.cluster: cache.ClusterCache

    def tell(self, kube: Any, notice: Notice) -> None:
        self.told.append((kube["metadata"]["name"], notice))

    async def facts(self, pod: dict[str, Any] | None = None, namespace: str = "shop") -> PodContext:
        found = await self.cluster.pod_context(namespace, pod or {"metadata": {"name": "cart-0"}})
        assert found is not None
        return found

    def gauge(self, dynakube: str) -> float | None:
        return self.registry.get_sample_value("oneagent_webhook_breaker_open", {"dynakube": dynakube})


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        found.put("namespaces", namespace("kube-system", None))
        found.put("namespaces", namespace("shop", "prod", annotations={"dynatrace.com/inject": "true", "other/x": "y"}))
        found.put("dynakubes", dynakube("prod"))
        found.put("csidrivers", {"metadata": {"name": "csi.oneagent.dynatrace.com"}})
        found.put("csidrivers", {"metadata": {"name": "other.example.com"}})
        found.put("daemonsets", daemonset(desired=3, ready=3))
        yield found


@asynccontextmanager
async def seen(kube: kube_api.KubeApi, folder: Path) -> AsyncIterator[Seen]:
    found = Seen()
    async with connected(kube, folder) as server:
        found.cluster = cache.ClusterCache(
            server,
            "dynatrace",
            circuit_breaker.CircuitBreaker(LIMITS, found.clock),
            found.registry,
            found.tell,
            first_pause=FIRST_PAUSE,
            review_seconds=0.01,
        )
        async with running(found.cluster):
            await eventually(lambda: kube.open_watches == WATCHES)
            yield found


def namespace(name: str, dynakube: str | None, **metadata: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/metadata.name": name} | ({namespace_mapping.LABEL: dynakube} if dynakube else {})
    return {"metadata": {"name": name, "uid": f"uid-of-{name}", "labels": labels, **metadata}}


def dynakube(name: str, mode: str = "cloudNativeFullStack") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "dynatrace", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {mode: {}}},
    }


def daemonset(*, desired: int, ready: int, **metadata: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "oneagent-csi-driver", "namespace": "dynatrace", **metadata},
        "status": {"desiredNumberScheduled": desired, "numberReady": ready},
    }


def failure(pod: str, at: float, namespace: str = "shop", reason: str = "PodWithoutAgent") -> dict[str, Any]:
    """An Event of the driver, in its own namespace."""
    stamp = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"name": f"{pod}.{reason}", "namespace": "dynatrace", "creationTimestamp": stamp},
        "involvedObject": {"kind": "DynaKube", "namespace": "dynatrace", "name": "prod", "uid": "uid-prod"},
        "related": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": f"uid-{pod}"},
        "reason": reason,
        "lastTimestamp": stamp,
    }


def put_unheard(kube: kube_api.KubeApi, obj: dict[str, Any]) -> None:
    """So that the watches that stand do not learn of it."""
    with kube.changed:
        kube.put("namespaces", obj)
        kube.compact()


def gets(kube: kube_api.KubeApi, name: str) -> int:
    return sum(request.path.endswith(f"/{name}") for request in kube.seen("namespaces"))


class TestFacts:
    def test_they_come_from_memory(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                asked = len(kube.requests)
                facts = await found.facts({"metadata": {"generateName": "cart-"}})
                assert len(kube.requests) == asked
            assert (facts.namespace, facts.cluster_id, facts.csi) == ("shop", "uid-of-kube-system", True)
            assert facts.namespace_labels == {namespace_mapping.LABEL: "prod", "kubernetes.io/metadata.name": "shop"}
            assert facts.namespace_annotations == {"dynatrace.com/inject": "true"}
            assert facts.workload == Workload("Pod", "cart")
            assert facts.driver_problem == ""
            assert facts.dynakube is not None
            assert facts.dynakube["apiVersion"] == "dynatrace.com/v1beta6"
            assert facts.dynakube["metadata"]["name"] == "prod"
            assert "managedFields" not in facts.dynakube["metadata"]

        asyncio.run(test())

    def test_there_are_none_before_all_is_known(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            kube.forbidden.add("csidrivers")
            found = Seen()
            async with connected(kube, tmp_path) as server:
                circuit = circuit_breaker.CircuitBreaker(LIMITS, found.clock)
                known = cache.ClusterCache(server, "dynatrace", circuit, found.registry, first_pause=FIRST_PAUSE)
                async with running(known):
                    await eventually(lambda: kube.open_watches == WATCHES - 1)
                    assert not known.is_synced
                    assert not known.is_csi_driver_known
                    assert await known.pod_context("shop", {}) is None
                    kube.forbidden.clear()
                    await eventually(lambda: known.is_synced)
                    assert await known.pod_context("shop", {}) is not None

        asyncio.run(test())

    @pytest.mark.parametrize("plural", ["replicasets", "jobs", "events", "daemonsets"])
    def test_what_is_only_useful_is_not_waited_for(self, kube: kube_api.KubeApi, tmp_path: Path, plural: str) -> None:
        async def test() -> None:
            kube.forbidden.add(plural)
            found = Seen()
            async with connected(kube, tmp_path) as server:
                circuit = circuit_breaker.CircuitBreaker(LIMITS, found.clock)
                known = cache.ClusterCache(server, "dynatrace", circuit, found.registry, first_pause=FIRST_PAUSE)
                async with running(known):
                    await eventually(lambda: known.is_synced)
                    facts = await known.pod_context("shop", {})
                    assert facts is not None
                    assert facts.driver_problem == ""

        asyncio.run(test())

    def test_a_namespace_that_the_watch_has_not_brought_yet_is_asked_for_once(
        self, kube: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.held.add("namespaces")
                waiting = [asyncio.create_task(found.facts(namespace="new")) for _ in range(20)]
                await eventually(lambda: gets(kube, "new"))
                put_unheard(kube, namespace("new", "prod"))
                kube.release("namespaces")
                answers = await asyncio.gather(*waiting)
                assert {facts.namespace_labels[namespace_mapping.LABEL] for facts in answers} == {"prod"}
                assert gets(kube, "new") == 1

        asyncio.run(test())

    def test_a_label_that_is_newer_than_the_watch_is_asked_for(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.put("namespaces", namespace("late", None))
                await eventually(lambda: found.cluster.namespace("late"))
                put_unheard(kube, namespace("late", "prod"))
                facts = await found.facts(namespace="late")
                assert facts.dynakube is not None
                assert gets(kube, "late") == 1

        asyncio.run(test())

    @pytest.mark.parametrize("name", ["nowhere", "kube-system"])
    def test_a_namespace_that_is_nobodys_has_none(self, kube: kube_api.KubeApi, tmp_path: Path, name: str) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                for _ in range(3):
                    assert await found.cluster.pod_context(name, {}) is None
                assert gets(kube, name) == 1

        asyncio.run(test())

    def test_a_label_of_a_dynakube_that_is_not_there_gives_facts_without_one(
        self, kube: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        async def test() -> None:
            kube.put("namespaces", namespace("lost", "gone"))
            async with seen(kube, tmp_path) as found:
                assert (await found.facts(namespace="lost")).dynakube is None

        asyncio.run(test())

    def test_what_changes_is_in_the_next_ones(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.delete("csidrivers", "csi.oneagent.dynatrace.com")
                kube.put("dynakubes", dynakube("test"))
                kube.put("namespaces", namespace("shop", "test"))
                await eventually(lambda: not found.cluster.has_csi_driver and len(found.cluster.dynakubes()) == 2)
                await eventually(lambda: "test" in str(found.cluster.namespace("shop")))
                facts = await found.facts()
                assert facts.dynakube is not None
                assert (facts.dynakube["metadata"]["name"], facts.csi) == ("test", False)

        asyncio.run(test())


class TestTheBreaker:
    def test_a_driver_that_is_down_pauses_injection_until_it_is_back(
        self, kube: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.put("daemonsets", daemonset(desired=3, ready=0))
                await eventually(
                    lambda: found.cluster._daemonset.objects["dynatrace/oneagent-csi-driver"].status.ready == 0
                )
                assert (await found.facts()).driver_problem == ""
                found.clock.now += 30
                await eventually(lambda: found.told)
                trouble = "the node driver is ready on none of its 3 nodes"
                assert (await found.facts()).driver_problem == trouble
                assert found.gauge("prod") == 1
                kube.put("daemonsets", daemonset(desired=3, ready=1))
                await eventually(lambda: len(found.told) == 2)
                assert (await found.facts()).driver_problem == ""
                assert found.gauge("prod") == 0
            paused = Notice("Warning", "InjectionPaused", f"Injection of new pods is paused: {trouble}")
            resumed = Notice("Normal", "InjectionResumed", "Injection of new pods has resumed")
            assert found.told == [("prod", paused), ("prod", resumed)]

        asyncio.run(test())

    def test_a_driver_that_is_being_removed_gets_no_new_pods(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.put("daemonsets", daemonset(desired=3, ready=3, deletionTimestamp="2026-01-01T00:00:00Z"))
                await eventually(lambda: found.cluster.pause_reason("prod"))
                kube.put("daemonsets", daemonset(desired=3, ready=3))
                await eventually(lambda: not found.cluster.pause_reason("prod"))
                kube.delete("daemonsets", "oneagent-csi-driver")
                await eventually(lambda: found.cluster.pause_reason("prod"))
                assert "not installed" in found.cluster.pause_reason("prod")

        asyncio.run(test())

    def test_a_dynakube_that_needs_no_driver_goes_on(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            kube.put("dynakubes", dynakube("enriching", "hostMonitoring"))
            kube.put("dynakubes", {"metadata": {"name": "broken", "namespace": "dynatrace"}, "spec": {"apiUrl": 7}})
            kube.delete("daemonsets", "oneagent-csi-driver")
            async with seen(kube, tmp_path) as found:
                await eventually(lambda: found.cluster.pause_reason("prod"))
                assert [found.cluster.pause_reason(name) for name in ("enriching", "broken", "unknown")] == ["", "", ""]
                kube.delete("csidrivers", "csi.oneagent.dynatrace.com")
                await eventually(
                    lambda: not found.cluster.pause_reason("prod")
                )  # Pods then bring the agent themselves.

        asyncio.run(test())

    def test_pods_that_got_no_agent_pause_their_dynakube_until_the_window_is_over(
        self, kube: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        async def test() -> None:
            kube.put("namespaces", namespace("bank", "test"))
            kube.put("dynakubes", dynakube("test"))
            now = time.time()
            kube.put("events", failure("a", now - 290))  # From before the webhook's start.
            kube.put("events", failure("old", now - 400))
            kube.put("events", failure("b", now, reason="Scheduled"))
            async with seen(kube, tmp_path) as found:
                kube.put("events", failure("a", now))
                kube.put("events", failure("c", now, namespace="kube-system"))
                kube.put("events", failure("d", now, namespace="bank"))
                await eventually(lambda: len(found.cluster._events.objects) == 4)
                assert found.cluster.pause_reason("prod") == ""
                kube.put("events", failure("e", now))
                await eventually(lambda: found.told)
                assert "got no agent within 5 minutes" in (await found.facts()).driver_problem
                assert (found.gauge("prod"), found.gauge("test")) == (1, 0)
                found.clock.now += 301
                await eventually(lambda: len(found.told) == 2)
                assert (await found.facts()).driver_problem == ""
            assert [(name, notice.reason) for name, notice in found.told] == [
                ("prod", "InjectionPaused"),
                ("prod", "InjectionResumed"),
            ]

        asyncio.run(test())

    def test_events_that_users_can_write_pause_nothing(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                for number in range(20):
                    for reason in ("AgentNotMounted", "PodWithoutAgent"):
                        event = failure(f"pod-{number}", time.time(), reason=reason)
                        event["metadata"]["namespace"] = "shop"
                        event["source"] = {"component": "oneagent-csi", "host": f"node-{number}"}
                        kube.put("events", event)
                        kube.put("events", event | {"involvedObject": event["related"]})
                kube.put("events", failure("real", time.time()))
                await eventually(lambda: found.cluster._events.objects)
                assert list(found.cluster._events.objects) == ["dynatrace/real.PodWithoutAgent"]
                assert found.cluster.pause_reason("prod") == ""

        asyncio.run(test())

    def test_pods_that_failed_before_its_start_count_however_late_their_namespace_is_known(
        self, kube: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        async def test() -> None:
            kube.put("events", failure("a", time.time() - 100))
            kube.put("events", failure("b", time.time() - 200))
            kube.fail_next(500, plural="namespaces", watch=False, times=3)
            async with seen(kube, tmp_path) as found:
                await eventually(lambda: found.told)

        asyncio.run(test())

    def test_pods_of_one_node_alone_do_not_pause_the_others(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            async with seen(kube, tmp_path) as found:
                kube.put("daemonsets", daemonset(desired=3, ready=3))
                await eventually(lambda: not found.cluster.pause_reason("prod"))
                for pod, node in (("a", "one"), ("b", "one"), ("c", "two")):
                    assert found.cluster.pause_reason("prod") == ""
                    kube.put("events", failure(pod, time.time()) | {"source": {"host": node}})
                    await eventually(
                        partial(found.cluster._events.objects.__contains__, f"dynatrace/{pod}.PodWithoutAgent")
                    )
                await eventually(lambda: found.cluster.pause_reason("prod"))

        asyncio.run(test())

    def test_a_dynakube_that_is_gone_leaves_no_gauge(self, kube: kube_api.KubeApi, tmp_path: Path) -> None:
        async def test() -> None:
            kube.delete("daemonsets", "oneagent-csi-driver")
            async with seen(kube, tmp_path) as found:
                await eventually(lambda: found.gauge("prod") == 1)
                kube.delete("dynakubes", "prod")
                await eventually(lambda: not found.cluster.dynakubes())
                assert found.gauge("prod") is None

        asyncio.run(test())
