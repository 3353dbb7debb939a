"""OpenTelemetryInjections in the webhook's cache, in the form of DynaKubes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from oneagent.webhook import cache, namespace_label
from oneagent.webhook.cache import circuit_breaker
from oneagent.webhook.injection.inputs import Notice
from tests.fakes import kube_api
from tests.unit.webhook.cache.test_cache import LIMITS, WATCHES, Clock, daemonset, dynakube, failure, namespace
from tests.unit.webhook.following import FIRST_PAUSE, connected, eventually, running

PLURAL = "opentelemetryinjections"


def injection(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "dynatrace", "uid": f"uid-{name}", "creationTimestamp": "2026"},
        "spec": {"package": "file:///data/otel.zip", **spec},
    }


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        found.put("namespaces", namespace("kube-system", None))
        found.put("namespaces", namespace("shop", "otelinj.prod"))
        found.put("dynakubes", dynakube("prod"))
        found.put(PLURAL, injection("prod"))
        found.put("csidrivers", {"metadata": {"name": "csi.oneagent.dynatrace.com"}})
        found.put("daemonsets", daemonset(desired=3, ready=3))
        yield found


@asynccontextmanager
async def following(
    kube: kube_api.KubeApi, folder: Path
) -> AsyncIterator[tuple[cache.ClusterCache, Clock, list[tuple[str, Notice]]]]:
    clock, told = Clock(), list[tuple[str, Notice]]()
    async with connected(kube, folder) as server:
        cluster = cache.ClusterCache(
            server,
            "dynatrace",
            circuit_breaker.CircuitBreaker(LIMITS, clock),
            CollectorRegistry(),
            lambda obj, notice: told.append((f"{obj['kind']} {obj['metadata']['name']}", notice)),
            injections=True,
            first_pause=FIRST_PAUSE,
            review_seconds=0.01,
        )
        async with running(cluster):
            await eventually(lambda: kube.open_watches == WATCHES + 2)
            yield cluster, clock, told


def test_the_label_of_a_namespace_names_one_of_both_kinds(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        async with following(kube, tmp_path) as (cluster, _, _):
            assert cluster.is_synced
            assert {obj["metadata"]["name"] for obj in cluster.dynakubes()} == {"prod", "otelinj.prod"}
            context = await cluster.pod_context("shop", {"metadata": {"name": "cart-0"}})
            assert context is not None
            assert context.dynakube is not None
            assert context.dynakube["kind"] == "OpenTelemetryInjection"
            own = cluster.dynakube("prod")
            assert own is not None
            assert own["kind"] == "DynaKube"

    asyncio.run(test())


def test_a_namespace_is_labelled_by_both_kinds_alike(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.put(PLURAL, injection("prod", namespaceSelector={"matchLabels": {"agents": "telemetry"}}))
        async with following(kube, tmp_path) as (cluster, _, _):
            new = {"metadata": {"name": "bank", "labels": {"agents": "telemetry"}}}
            (patch,) = namespace_label.patch(
                new, [obj for obj in cluster.dynakubes() if "telemetry" in obj], "dynatrace"
            )
            assert patch["value"] == "otelinj.prod"

    asyncio.run(test())


def test_failed_pods_open_its_breaker(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        async with following(kube, tmp_path) as (cluster, clock, told):
            for pod in ("cart-0", "cart-1"):
                event = failure(pod, clock.now)
                event["involvedObject"] |= {"kind": "OpenTelemetryInjection"}
                kube.put("events", event)
            await eventually(lambda: cluster.pause_reason("otelinj.prod"))
            assert not cluster.pause_reason("prod")
            await eventually(lambda: told)
            assert told[0][0] == "OpenTelemetryInjection otelinj.prod"

    asyncio.run(test())


def test_one_that_cannot_be_used_keeps_its_place(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.put(PLURAL, injection("prod", languages=["perl"]))
        async with following(kube, tmp_path) as (cluster, _, _):
            found = cluster.dynakube("otelinj.prod")
            assert found is not None
            assert "spec.languages" in found["problem"]

    asyncio.run(test())
