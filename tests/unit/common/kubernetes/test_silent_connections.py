"""A connection dies without a word: watches over real connections, of both asyncio clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from kubernetes.aio import client
from prometheus_client import CollectorRegistry

from oneagent.common import backoff
from oneagent.common.kubernetes import list_watch, watch_silence
from oneagent.common.kubernetes.watch import Client, Watch
from oneagent.operator import api as operator_api
from oneagent.webhook import api as webhook_api
from tests.fakes import kube_api
from tests.fakes.relay import Relay

PERIODS = list_watch.Periods(watch=1.0, quiet=1.0, spare=0.5)
NAMESPACES = list_watch.Collection("/api/v1/namespaces", metadata_only=True, periods=PERIODS)
PATIENCE = 30.0
SECONDS = "oneagent_webhook_watch_silent_seconds"


class Closable(Client, Protocol):
    async def close(self) -> None: ...


def of_the_webhook(port: int, folder: Path) -> Closable:
    config = folder / "config"
    config.write_text(config.read_text().replace("PORT", str(port)))
    return webhook_api.connect(config)


def of_the_operator(port: int, folder: Path) -> Closable:
    return operator_api.Api(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")))


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@asynccontextmanager
async def watching(
    kube: kube_api.KubeApi, relay: Relay, connect: Callable[[int, Path], Closable], folder: Path
) -> AsyncIterator[Watch[str]]:
    """A watch whose stream stands, on a connection through the relay."""
    config = kube.kubeconfig(folder / "config")
    config.write_text(config.read_text().replace(kube.url, "http://127.0.0.1:PORT"))
    connected = connect(relay.port, folder)
    watch = Watch(connected, NAMESPACES, read, retry=backoff.Backoff(0.02, 1))
    running = asyncio.create_task(watch.run())
    try:
        await eventually(lambda: kube.open_watches)
        yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await connected.close()


def read(content: msgspec.Raw) -> str:
    return "read"


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.01)


def relay_to(kube: kube_api.KubeApi) -> Relay:
    return Relay("127.0.0.1", int(kube.url.rpartition(":")[2]))


@pytest.mark.parametrize("connect", [of_the_webhook, of_the_operator])
class TestAConnectionThatDiesWithoutAWord:
    def test_is_replaced_and_the_change_is_acted_on(
        self, kube: kube_api.KubeApi, tmp_path: Path, connect: Callable[[int, Path], Closable]
    ) -> None:
        async def test() -> None:
            with relay_to(kube) as relay:
                async with watching(kube, relay, connect, tmp_path) as watch:
                    relay.silence()
                    kube.put("namespaces", {"metadata": {"name": "shop"}})
                    await eventually(lambda: "shop" in watch.objects)
            assert len(kube.seen("namespaces")) == 2

        asyncio.run(test())

    def test_is_told_while_no_other_can_be_had(
        self, kube: kube_api.KubeApi, tmp_path: Path, connect: Callable[[int, Path], Closable]
    ) -> None:
        async def test() -> None:
            registry = CollectorRegistry()
            with relay_to(kube) as relay:
                async with watching(kube, relay, connect, tmp_path) as watch:
                    watch_silence.export([watch], watch_silence.create_gauge("webhook", registry))
                    assert watch_silence.problem([watch]) == ""
                    relay.is_silent = True
                    relay.silence()
                    await eventually(lambda: watch_silence.problem([watch]))
                    assert watch_silence.problem([watch]).startswith("watch of /api/v1/namespaces: no response for ")
                    seconds = registry.get_sample_value(SECONDS, {"resource": "namespaces"})
                    assert seconds is not None and seconds > PERIODS.silence()

        asyncio.run(test())

    def test_is_not_taken_for_one_on_which_there_is_nothing_to_tell(
        self, kube: kube_api.KubeApi, tmp_path: Path, connect: Callable[[int, Path], Closable]
    ) -> None:
        async def test() -> None:
            with relay_to(kube) as relay:
                async with watching(kube, relay, connect, tmp_path) as watch:
                    await eventually(lambda: len(kube.seen("namespaces", watch=True)) == 3)
                    assert watch.problem == ""
            assert len(kube.seen("namespaces")) == 1

        asyncio.run(test())
