"""LimitRanges and quotas as admissions see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oneagent.webhook.cache.namespace_limits import NamespaceLimits
from oneagent.webhook.injection.namespace_limits import Rules
from tests.fakes import kube_api
from tests.unit.webhook.following import FIRST_PAUSE, connected, eventually, running


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@asynccontextmanager
async def known(kube: kube_api.KubeApi, folder: Path) -> AsyncIterator[NamespaceLimits]:
    async with connected(kube, folder) as server:
        found = NamespaceLimits(server, first_pause=FIRST_PAUSE)
        async with running(found):
            yield found


def rules_of(found: NamespaceLimits, namespace: str) -> Sequence[Rules]:
    rules = found.find(namespace)
    assert rules is not None
    return rules


def limit_range(namespace: str, memory: str) -> dict[str, Any]:
    limits = [{"type": "Container", "max": {"memory": memory}}]
    return {"metadata": {"name": "bounds", "namespace": namespace}, "spec": {"limits": limits}}


def quota(namespace: str, name: str, pods: str = "1") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {
        "metadata": metadata,
        "spec": {"hard": {"pods": pods, "limits.cpu": "1"}},
        "status": {"used": {"pods": "0"}},
    }


def test_those_of_one_namespace_follow_the_api_server(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    kube.put("limitranges", limit_range("shop", "1Gi"))
    kube.put("limitranges", limit_range("bank", "2Gi"))

    async def test() -> None:
        async with known(kube, tmp_path) as found:
            await eventually(lambda: found.find("shop") is not None)
            (rules,) = rules_of(found, "shop")
            assert rules.most == {"memory": 1 << 30}
            assert found.find("empty") == ()
            kube.put("resourcequotas", quota("shop", "bounds"))
            await eventually(lambda: len(rules_of(found, "shop")) == 2)
            kube.delete("limitranges", "bounds", "shop")
            await eventually(lambda: len(rules_of(found, "shop")) == 1)
            (rules,) = rules_of(found, "shop")
            assert ("limits", "cpu") in rules.demanded
            kube.delete("resourcequotas", "bounds", "shop")
            await eventually(lambda: found.find("shop") == ())
            assert len(rules_of(found, "bank")) == 1

    asyncio.run(test())


def test_equal_limit_ranges_are_one_object(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    for namespace in ("shop", "bank"):
        kube.put("limitranges", limit_range(namespace, "1Gi"))

    async def test() -> None:
        async with known(kube, tmp_path) as found:
            await eventually(lambda: found.find("shop") is not None)
            ((shop,), (bank,)) = (rules_of(found, "shop"), rules_of(found, "bank"))
            assert shop is bank

    asyncio.run(test())


def test_quotas_of_the_same_resources_are_one_object(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    """There may be one in each of thousands of namespaces, and it changes with every pod."""
    kube.put("resourcequotas", quota("shop", "bounds", pods="1"))
    kube.put("resourcequotas", quota("bank", "bounds", pods="2"))

    async def test() -> None:
        async with known(kube, tmp_path) as found:
            await eventually(lambda: found.find("shop") is not None)
            ((shop,), (bank,)) = (rules_of(found, "shop"), rules_of(found, "bank"))
            assert shop is bank

    asyncio.run(test())


@pytest.mark.parametrize("forbidden", ["limitranges", "resourcequotas"])
def test_nothing_is_known_while_one_of_the_two_cannot_be_read(
    kube: kube_api.KubeApi, tmp_path: Path, forbidden: str
) -> None:
    kube.forbidden.add(forbidden)

    async def test() -> None:
        async with known(kube, tmp_path) as found:
            await eventually(lambda: any(watch.is_synced for watch in found.watches))
            await eventually(lambda: any(watch.problem for watch in found.watches))
            assert found.find("shop") is None
            kube.forbidden.clear()
            await eventually(lambda: found.find("shop") == ())

    asyncio.run(test())
