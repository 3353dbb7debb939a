from __future__ import annotations

import asyncio
import dataclasses
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import trustme

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from tests.fakes import kube_api
from tests.unit.webhook.following import FIRST_PAUSE, connected, eventually, running

NAMESPACES = list_watch.Collection("/api/v1/namespaces", metadata_only=True)


class Labelled(msgspec.Struct):
    labels: dict[str, str] = {}


class Shape(msgspec.Struct):
    metadata: Labelled


def labels(content: msgspec.Raw) -> dict[str, str]:
    return errors.decode(content, Shape).metadata.labels


def namespace(name: str, **of: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": of}, "spec": {"finalizers": ["kubernetes"]}}


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@asynccontextmanager
async def following(
    kube: kube_api.KubeApi, folder: Path, resource: list_watch.Collection = NAMESPACES
) -> AsyncIterator[Watch[dict[str, str]]]:
    """A watch whose stream stands."""
    async with connected(kube, folder) as server:
        watch = Watch(server, resource, labels, retry=backoff.Backoff(FIRST_PAUSE, 30))
        async with running(watch):
            await eventually(lambda: kube.open_watches)
            yield watch


def lists(kube: kube_api.KubeApi) -> int:
    return len(kube.seen("namespaces"))


def test_what_is_there_is_found_and_changes_are_followed(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.put("namespaces", namespace("shop", team="a"))
        async with following(kube, tmp_path) as watch:
            assert watch.is_synced
            assert watch.objects == {"shop": {"team": "a"}}
            kube.put("namespaces", namespace("bank"))
            await eventually(lambda: "bank" in watch.objects)
            kube.put("namespaces", namespace("shop", team="b"))
            await eventually(lambda: watch.objects["shop"] == {"team": "b"})
            kube.delete("namespaces", "shop")
            await eventually(lambda: watch.objects == {"bank": {}})

    asyncio.run(test())


def test_a_long_list_comes_in_chunks_and_counts_when_it_is_complete(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(25):
            kube.put("namespaces", namespace(f"n{number}"))
        async with following(kube, tmp_path, dataclasses.replace(NAMESPACES, page_size=10)) as watch:
            assert len(watch.objects) == 25
        asked = [request.query for request in kube.seen("namespaces")]
        assert [query["limit"] for query in asked] == ["10"] * 3
        assert ["continue" in query for query in asked] == [False, True, True]

    asyncio.run(test())


def test_a_list_whose_rest_is_forgotten_is_begun_again(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        for number in range(15):
            kube.put("namespaces", namespace(f"n{number}"))
        kube.forget_next_page = True
        async with following(kube, tmp_path, dataclasses.replace(NAMESPACES, page_size=10)) as watch:
            assert len(watch.objects) == 15
        assert lists(kube) == 4

    asyncio.run(test())


def test_only_metadata_is_asked_for_where_it_is_enough(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        async with following(kube, tmp_path):
            pass
        (listed,), (watched,) = kube.seen("namespaces"), kube.seen("namespaces", watch=True)
        assert listed.headers["Accept"].startswith("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,")
        assert watched.headers["Accept"].startswith("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,")
        assert watched.query["allowWatchBookmarks"] == "true"
        assert 75 <= int(watched.query["timeoutSeconds"]) <= 100

    asyncio.run(test())


def test_a_field_selector_is_given_to_the_list_and_to_the_watch(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.put("namespaces", namespace("shop"))
        one = list_watch.Collection("/api/v1/namespaces", "metadata.name=bank")
        async with following(kube, tmp_path, one) as watch:
            assert watch.objects == {}
            kube.put("namespaces", namespace("mall"))
            kube.put("namespaces", namespace("bank"))
            await eventually(lambda: watch.objects)
            assert set(watch.objects) == {"bank"}

    asyncio.run(test())


def test_a_cut_stream_goes_on_from_the_last_bookmark_without_a_list(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        async with following(kube, tmp_path) as watch:
            version = kube.bookmark()
            await eventually(lambda: watch.version == str(version))
            kube.cut()
            await eventually(lambda: len(kube.seen("namespaces", watch=True)) == 2)
            kube.put("namespaces", namespace("bank"))
            await eventually(lambda: "bank" in watch.objects)
        assert kube.seen("namespaces", watch=True)[1].query["resourceVersion"] == str(version)
        assert lists(kube) == 1

    asyncio.run(test())


def test_a_watch_that_the_server_ends_is_taken_up(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.watch_seconds = 0.02
        async with following(kube, tmp_path) as watch:
            await eventually(lambda: len(kube.seen("namespaces", watch=True)) == 3)
            kube.put("namespaces", namespace("bank"))
            await eventually(lambda: "bank" in watch.objects)
        assert lists(kube) == 1

    asyncio.run(test())


@pytest.mark.parametrize("as_event", [False, True], ids=["as an answer", "as an event"])
def test_a_forgotten_version_leads_to_a_list_which_shows_what_was_deleted_meanwhile(
    kube: kube_api.KubeApi, tmp_path: Path, as_event: bool
) -> None:
    async def test() -> None:
        kube.put("namespaces", namespace("shop"))
        kube.put("namespaces", namespace("bank"))
        async with following(kube, tmp_path) as watch:
            with kube.changed:
                kube.delete("namespaces", "shop")
                kube.compact()
                if as_event:
                    kube.send_to_watches({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
                else:
                    kube.cut()
            await eventually(lambda: set(watch.objects) == {"bank"})
            assert lists(kube) == 2

    asyncio.run(test())


def test_the_old_set_is_kept_while_there_is_no_new_one(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.put("namespaces", namespace("shop"))
        async with following(kube, tmp_path) as watch:
            kube.compact()
            kube.fail_next(500, plural="namespaces", watch=False, times=3)
            kube.cut()
            while kube.failures:
                assert set(watch.objects) == {"shop"}
                assert watch.is_synced
                await asyncio.sleep(0.005)

    asyncio.run(test())


@pytest.mark.parametrize("line", [b"no json\n", b'"text"\n', b'{"type": 1}\n', b"\xff\xfe\n", b"[" * 3000 + b"\n"])
def test_a_line_of_garbage_costs_a_reconnect_and_nothing_else(
    kube: kube_api.KubeApi, tmp_path: Path, line: bytes
) -> None:
    async def test() -> None:
        kube.put("namespaces", namespace("shop"))
        async with following(kube, tmp_path) as watch:
            kube.send_to_watches(line)
            await eventually(lambda: len(kube.seen("namespaces", watch=True)) == 2)
            kube.put("namespaces", namespace("bank"))
            await eventually(lambda: set(watch.objects) == {"shop", "bank"})
        assert lists(kube) == 1

    asyncio.run(test())


def test_an_object_that_cannot_be_understood_hides_no_other(
    kube: kube_api.KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        kube.put("namespaces", {"metadata": {"name": "odd", "labels": "none"}})
        kube.put("namespaces", namespace("shop"))
        async with following(kube, tmp_path) as watch:
            assert set(watch.objects) == {"shop"}
            kube.put("namespaces", {"metadata": {"name": "shop", "labels": 7}})
            await eventually(lambda: not watch.objects)
            kube.put("namespaces", namespace("odd"))
            await eventually(lambda: set(watch.objects) == {"odd"})

    asyncio.run(test())
    told = [record.__dict__["fields"]["object"] for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["odd", "shop"]


def test_a_refusal_does_not_end_it(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        kube.forbidden.add("namespaces")
        async with connected(kube, tmp_path) as server:
            watch = Watch(server, NAMESPACES, labels, retry=backoff.Backoff(FIRST_PAUSE, 30))
            async with running(watch):
                await eventually(lambda: lists(kube) == 2)
                assert not watch.is_synced
                kube.forbidden.clear()
                await watch.wait_until_synced()

    asyncio.run(test())


def test_in_a_cluster_the_service_account_is_used_and_its_renewed_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("first")
    (tmp_path / "namespace").write_text("monitoring")

    async def test(kube: kube_api.KubeApi) -> None:
        server = api.connect(service_account=tmp_path)
        assert server.namespace == "monitoring"
        watch = Watch(server, NAMESPACES, labels, retry=backoff.Backoff(FIRST_PAUSE, 30))
        async with running(watch):
            await eventually(lambda: kube.open_watches)
            kube.token = "second"
            (tmp_path / "token").write_text("second")
            kube.cut()
            kube.put("namespaces", namespace("shop"))
            await eventually(lambda: watch.objects)
        await server.close()

    with kube_api.KubeApi(token="first", tls=tls) as kube:
        host, port = kube.url.removeprefix("https://").split(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        asyncio.run(test(kube))


def test_one_that_is_ended_leaves_no_connection_behind(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    async def test(kube: kube_api.KubeApi) -> None:
        server = api.connect(kube.kubeconfig(tmp_path / "config", ca=authority.cert_pem.bytes()))
        async with running(Watch(server, NAMESPACES, labels, retry=backoff.Backoff(FIRST_PAUSE, 30))):
            await eventually(lambda: kube.open_watches)
            assert connections(kube)
        await server.close()
        await eventually(lambda: not connections(kube))

    with kube_api.KubeApi(tls=tls) as kube:
        asyncio.run(test(kube))


def connections(kube: kube_api.KubeApi) -> list[Any]:
    """Those that this process has to the API server."""
    port = int(kube.url.rpartition(":")[2])
    return [one for one in psutil.Process().net_connections("tcp") if one.raddr[1:] == (port,)]


@pytest.mark.parametrize("text", ["", "[]", "{}", "current-context: x\nclusters: []\ncontexts: []", ": :"])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    with pytest.raises(errors.ApiError, match=str(config)):
        api.connect(config)
