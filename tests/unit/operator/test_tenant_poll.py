"""When a DynaKube's tenant is asked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from oneagent.common.identifiers import DynaKubeName
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, asking
from oneagent.operator.cache import Cache
from oneagent.operator.dynakube_worker import FINALIZER, DynaKubeWorker
from tests.fakes import packages
from tests.fakes.object_api import Objects
from tests.fakes.tenant import Tenant

NAMESPACE = "dynatrace"
NAME = DynaKubeName("shop")
METADATA = {"name": NAME, "namespace": NAMESPACE}


class Cluster(Objects):
    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()

    async def apply(self, resource: api.Resource, manifest: Mapping[str, Any], *, subresource: str) -> None:
        """The last that a worker does when it looks."""
        self.looked.set()


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
    with ThreadPoolExecutor(1) as threads:
        worker = DynaKubeWorker(
            NAME, api.dynakubes("v1beta6"), NAMESPACE, cast("api.Api", cluster), observed, (), asking.Limit(), threads,
            lambda *_: None, Registries(), lambda: now[0],
        )  # fmt: skip

        async def look(interval: str) -> int:
            """How often the tenant was asked when the worker has looked, and looked again for the answer."""
            observed.dynakubes[NAME] = dynakube(tenant.api_url, interval)
            for _ in range(2):
                cluster.looked.clear()
                worker.wake()
                await cluster.looked.wait()
                await asyncio.wrap_future(threads.submit(lambda: None))
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
