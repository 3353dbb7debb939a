"""The times at which a DynaKube's tenant is polled."""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from oneagent.common import dynakube as dynakubes
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, tenant_poller
from oneagent.operator.cache import Cache
from oneagent.operator.dynakube_worker import FINALIZER, DynaKubeWorker
from oneagent.operator.rate_limit import RateLimiter
from oneagent.operator.reconcilers import tenant_connection, versions
from oneagent.operator.tenant_poller import TenantPoller
from tests.fakes import packages, raw_server
from tests.fakes.object_api import Objects
from tests.fakes.provisioner import eventually
from tests.fakes.proxy import Proxy
from tests.fakes.raw_server import RawServer
from tests.fakes.tenant import Fault, Tenant

NAMESPACE = "dynatrace"
NAME = DynaKubeName("shop")
METADATA = {"name": NAME, "namespace": NAMESPACE}


class Cluster(Objects):
    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()

    async def apply(self, resource: api.Resource, obj: Mapping[str, Any], *, subresource: str = "") -> api.Object:
        """The last that a worker does when it looks."""
        self.looked.set()
        return dict(obj)


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with Tenant() as tenant:
        tenant.release(packages.VERSION, packages.build(tmp_path / "agent.zip"))
        yield tenant


def test_a_shorter_interval_counts_from_the_last_answer(tenant: Tenant) -> None:
    asyncio.run(_shorten(tenant))


async def _shorten(tenant: Tenant) -> None:
    cluster, observed, now = Cluster(), Cache(), [1_750_000_000.0]
    token = base64.b64encode(tenant.token.encode()).decode()
    cluster.put("Secret", {"metadata": METADATA, "data": {"apiToken": token}})
    slots = tenant_poller.create_slots()

    def is_idle() -> bool:
        if slot := slots.acquire(tenant.api_url):
            slots.release(slot)
        return slot is not None

    worker = DynaKubeWorker(
        NAME, api.dynakubes("v1beta6"), NAMESPACE, cast("api.Api", cluster), observed, (), RateLimiter(), slots,
        lambda *_: None, Registries(), lambda: now[0],
    )  # fmt: skip

    async def look(interval: str) -> int:
        """Count the polls of the tenant after two runs of the worker: one starts a poll, one reads its result."""
        observed.dynakubes[NAME] = dynakube(tenant.api_url, interval)
        for _ in range(2):
            cluster.looked.clear()
            worker.wake()
            await cluster.looked.wait()
            await asyncio.to_thread(eventually, is_idle)
        return tenant.count("latest")

    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        assert await look("15m") == 1
        now[0] += 61
        assert await look("15m") == 1
        assert await look("60s") == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def dynakube(api_url: str, interval: str) -> dict[str, Any]:
    annotations = {"feature.dynatrace.com/poll-interval": interval}
    metadata = {**METADATA, "uid": "1", "finalizers": [FINALIZER], "annotations": annotations}
    spec = {"apiUrl": api_url, "oneAgent": {"applicationMonitoring": {}}}
    return {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": metadata, "spec": spec}


def test_a_step_of_the_clock_neither_delays_a_poll_nor_brings_it_forward(tenant: Tenant) -> None:
    asyncio.run(_step(tenant))


async def _step(tenant: Tenant) -> None:
    cluster, ended, now, elapsed = Cluster(), asyncio.Event(), [1_750_000_000.0], [0.0]
    token = base64.b64encode(tenant.token.encode()).decode()
    cluster.put("Secret", {"metadata": METADATA, "data": {"apiToken": token}})
    poller = TenantPoller(
        cast("api.Api", cluster), NAMESPACE, RateLimiter(), tenant_poller.create_slots(), Registries(), ended.set,
        clock=lambda: elapsed[0], now=lambda: now[0],
    )  # fmt: skip
    kube = dynakubes.from_object(dynakube(tenant.api_url, "15m"))
    assert await poller.poll_if_due(kube) is None
    await ended.wait()
    for step in (-1e9, 0.0, 1e9):
        now[0] += step
        assert await poller.poll_if_due(kube) == 900.0
    elapsed[0] += 900.0
    assert await poller.poll_if_due(kube) is None


def test_the_exporters_objects_are_news_for_nodes_only_with_another_content() -> None:
    asyncio.run(_label())


async def _label() -> None:
    cluster, ended, elapsed = Cluster(), asyncio.Event(), [0.0]
    spec = {"package": "file:///data/otel.zip", "exporter": {"headersSecret": "headers"}}
    kube = dynakubes.from_object(injection.normalize({"metadata": METADATA, "spec": spec}))
    poller = TenantPoller(
        cast("api.Api", cluster), NAMESPACE, RateLimiter(), tenant_poller.create_slots(), Registries(), ended.set,
        clock=lambda: elapsed[0],
    )  # fmt: skip

    async def digest_with(value: str, label: str) -> str:
        """The digest after the next poll."""
        metadata = {"name": "headers", "namespace": NAMESPACE, "labels": {"synced": label}}
        cluster.put("Secret", {"metadata": metadata, "data": {"a": base64.b64encode(value.encode()).decode()}})
        elapsed[0] += 1e6
        assert await poller.poll_if_due(kube) is None
        await ended.wait()
        ended.clear()
        await poller.poll_if_due(kube)
        return poller.state.exporter_inputs

    first = await digest_with("1", "a")
    assert first
    assert await digest_with("1", "b") == first
    second = await digest_with("2", "b")
    assert second != first
    assert await digest_with("1", "a") not in (first, second)


@pytest.mark.parametrize("asked", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_decides_for_an_hour_at_most_and_the_condition_tells_until_when(tenant: Tenant, asked: str) -> None:
    tenant.plan("connection", Fault(status=429, headers={"Retry-After": asked}))
    state = asyncio.run(_poll_once(tenant, {}, {}))
    message = tenant_connection.decide("", {}, state).message
    told = datetime.datetime.fromisoformat(message.rpartition("next try at ")[2])
    assert 1800 < (told - datetime.datetime.now(datetime.UTC)).total_seconds() <= 3600
    assert "answered 429" in message
    assert versions.choose("", "", {}, state).message.endswith(message.rpartition("; ")[2])


def test_a_pause_that_is_soon_over_is_not_told(tenant: Tenant) -> None:
    tenant.plan("connection", Fault(status=500))
    state = asyncio.run(_poll_once(tenant, {}, {}))
    assert "next try" not in tenant_connection.decide("", {}, state).message


PROXY = "spec.proxy.valueFrom: the Secret corporate"
CERTIFICATES = "spec.trustedCAs: the ConfigMap authorities"


@pytest.mark.parametrize(
    ("spec", "contents", "problem"),
    [
        (
            {"proxy": {"valueFrom": "corporate"}},
            {},
            f"{PROXY} does not exist: create it with the proxy's URL at the key proxy",
        ),
        (
            {"proxy": {"valueFrom": "corporate"}},
            {("Secret", "corporate"): {"url": "http://127.0.0.1:1"}},
            f"{PROXY} has nothing at the key proxy: put the proxy's URL there",
        ),
        (
            {"trustedCAs": "authorities"},
            {},
            f"{CERTIFICATES} does not exist: create it with PEM certificates at the key certs",
        ),
        (
            {"trustedCAs": "authorities"},
            {("ConfigMap", "authorities"): {"ca.crt": "PEM"}},
            f"{CERTIFICATES} has nothing at the key certs: put PEM certificates there",
        ),
    ],
)
def test_a_proxy_or_certificates_that_are_missing_are_refused(
    tenant: Tenant, spec: dict[str, Any], contents: dict[tuple[str, str], dict[str, str]], problem: str
) -> None:
    state = asyncio.run(_poll_once(tenant, spec, contents))
    assert state.problem == problem
    assert tenant.requests == []


def test_the_proxy_s_value_comes_before_its_secret(tenant: Tenant) -> None:
    with Proxy() as proxy:
        spec = {"proxy": {"value": f"http://{proxy.address}", "valueFrom": "corporate"}}
        secret = {"proxy": "http://127.0.0.1:1"}
        state = asyncio.run(_poll_once(tenant, spec, {("Secret", "corporate"): secret}))
        assert state.problem == ""
        assert proxy.seen


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [("127.0.0.0/8", True), ("other.example, 127.0.0.1", True), ("*", True), ("127.0.0.2", False), ("", False)],
)
def test_no_proxy_names_the_hosts_that_are_reached_without_it(tenant: Tenant, no_proxy: str, is_direct: bool) -> None:
    with Proxy() as proxy:
        spec = {"proxy": {"value": f"http://{proxy.address}"}}
        state = asyncio.run(_poll_once(tenant, spec, {}, {"feature.dynatrace.com/no-proxy": no_proxy}))
        assert state.problem == ""
        assert bool(proxy.seen) is not is_direct
        assert tenant.requests


async def _poll_once(
    tenant: Tenant,
    spec: Mapping[str, Any],
    contents: Mapping[tuple[str, str], Mapping[str, str]],
    annotations: Mapping[str, str] | None = None,
) -> TenantState:
    """The state after one poll as the operator makes it."""
    cluster = Cluster()
    token = base64.b64encode(tenant.token.encode()).decode()
    cluster.put("Secret", {"metadata": METADATA, "data": {"apiToken": token}})
    for (kind, name), content in contents.items():
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
        metadata = {"name": name, "namespace": NAMESPACE}
        cluster.put(kind, {"kind": kind, "metadata": metadata, "data": encoded if kind == "Secret" else dict(content)})
    obj = dynakube(tenant.api_url, "15m")
    obj["spec"].update(spec)
    obj["metadata"] = {**obj["metadata"], "annotations": dict(annotations or {})}
    kube = dynakubes.from_object(obj)
    ended = asyncio.Event()
    slots = tenant_poller.create_slots()
    poller = TenantPoller(cast("api.Api", cluster), NAMESPACE, RateLimiter(), slots, Registries(), ended.set)
    assert await poller.poll_if_due(kube) is None
    await ended.wait()
    await poller.poll_if_due(kube)
    return poller.state


def test_a_corrected_url_is_polled_at_once_while_the_former_tenant_hangs(tenant: Tenant) -> None:
    asyncio.run(_correct(tenant))


async def _correct(tenant: Tenant) -> None:
    cluster, ended = Cluster(), asyncio.Event()
    token = base64.b64encode(tenant.token.encode()).decode()
    cluster.put("Secret", {"metadata": METADATA, "data": {"apiToken": token}})
    poller = TenantPoller(
        cast("api.Api", cluster), NAMESPACE, RateLimiter(), tenant_poller.create_slots(), Registries(), ended.set
    )
    with RawServer(lambda connection, _: raw_server.drip(connection, b"HTTP/1.1 200 OK\r\nX: ")) as hanging:
        assert await poller.poll_if_due(dynakubes.from_object(dynakube(f"{hanging.url}/api", "15m"))) is None
        await asyncio.to_thread(eventually, lambda: hanging.requests)
        corrected = dynakubes.from_object(dynakube(tenant.api_url, "15m"))
        async with asyncio.timeout(2):
            await poller.poll_if_due(corrected)
            while not poller.state.complete:
                await ended.wait()
                ended.clear()
                await poller.poll_if_due(corrected)
        await asyncio.to_thread(eventually, lambda: not hanging.open_connections, 2)
