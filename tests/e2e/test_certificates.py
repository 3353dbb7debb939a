"""The webhook's certificates change under a real API server, which calls the webhook all the while.

The webhook is a double with two replicas that read the Secret now and then, one of them slowly. It ends every
connection after one answer, so that each request is a handshake that the API server verifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import ssl
import time
import warnings
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.certificates import cluster_state as holding
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.probe import SERVICES, SLICES, EndpointProbe
from oneagent.operator.certificates.settings import CertificateSettings
from tests.cluster.cluster import Cluster
from tests.cluster.node import Node

CONFIGURATION: Final = "certificates.example.com"
DEFINITION: Final = "notes.certificates.example.com"
SERVICE: Final = "oneagent-webhook"
CERTIFICATES: Final = "oneagent-webhook-certs"
NOTES: Final = {one: api.Resource(f"certificates.example.com/{one}", "Note", "notes") for one in ("v1", "v2")}
EVERY_SECONDS: Final = 0.05
CONVERTED_EACH: Final = 4
MOST_RUNNING: Final = 8
LONGEST_SECONDS: Final = 135.0

Result = TypeVar("Result")


class Replica:
    """Answers every admission and conversion request, with the certificate that it has seen last."""

    def __init__(self, store: api.Api, namespace: str, folder: Path, poll_seconds: float) -> None:
        self._api, self._namespace, self._folder, self._poll = store, namespace, folder, poll_seconds
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loaded = ""
        self.port = 0
        self.ready = asyncio.Event()
        self.answered = 0
        self.certificates: list[str] = []
        """Fingerprints of all that were served."""

    async def serve(self) -> None:
        while not self._loaded:
            await self._reload()
            await asyncio.sleep(0.05)
        app = web.Application()
        app.router.add_post("/admit", self._admit)
        app.router.add_post("/convert", self._convert)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, Node.address, 0, ssl_context=self._tls)
            await site.start()
            self.port = runner.addresses[0][1]
            self.ready.set()
            while True:
                await asyncio.sleep(self._poll)
                await self._reload()
        finally:
            await runner.cleanup()

    async def _reload(self) -> None:
        secret = await self._api.find(api.SECRETS, CERTIFICATES, self._namespace)
        served = holding.served(secret)
        if not secret or served.problem or not served.certificate or served.certificate.fingerprint == self._loaded:
            return
        self._loaded = served.certificate.fingerprint
        self.certificates.append(self._loaded)
        for part in ("tls.crt", "tls.key"):
            (self._folder / part).write_bytes(b64decode(secret["data"][part]))
        self._tls.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")

    async def _admit(self, request: web.Request) -> web.Response:
        review = await request.json()
        return self._answer(review, {"uid": review["request"]["uid"], "allowed": True})

    async def _convert(self, request: web.Request) -> web.Response:
        review = await request.json()
        asked = review["request"]
        converted = [{**one, "apiVersion": asked["desiredAPIVersion"]} for one in asked["objects"]]
        answer = {"uid": asked["uid"], "convertedObjects": converted, "result": {"status": "Success"}}
        return self._answer(review, answer)

    def _answer(self, review: dict[str, Any], answer: dict[str, Any]) -> web.Response:
        self.answered += 1
        response = web.json_response({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer})
        response.force_close()
        return response


class World:
    """A namespace with the webhook's Service, two replicas, configurations that call it, and a keeper."""

    def __init__(self, store: api.Api, users: api.Api, namespace: str, folder: Path, **times: float) -> None:
        self.api, self.users, self.namespace = store, users, namespace
        self.settings = CertificateSettings(
            namespace=namespace,
            mutating=(CONFIGURATION,),
            validating=(CONFIGURATION,),
            definition=DEFINITION,
            **{
                "check_seconds": 1.0,
                "longest_retry_seconds": 0.5,
                "settle_seconds": 1.5,
                "grace_seconds": 2.0,
                **times,
            },  # type: ignore[arg-type]
        )
        self.replicas = []
        for name, poll_seconds in (("quick", 0.1), ("slow", 1.0)):
            (folder / name).mkdir()
            self.replicas.append(Replica(store, namespace, folder / name, poll_seconds))
        self.told: list[str] = []
        self.authorities: set[str] = set()
        self.requests = 0
        self.failures: list[str] = []
        self._keeping: asyncio.Task[None] | None = None

    def start_keeper(self) -> None:
        self._keeping = asyncio.create_task(self._keep())

    async def kill_keeper(self) -> None:
        """Wherever it is."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping

    async def _keep(self) -> None:
        metrics = Metrics(CollectorRegistry())
        keeper = CertificateController(
            self.api,
            self.settings,
            EndpointProbe(self.api, self.settings),
            metrics=metrics,
            on_change=lambda reason, message: self.told.append(f"{time.time():.2f} {reason}: {message}"),
        )
        while True:  # noqa: ASYNC110 - nobody tells it of changes
            await asyncio.sleep(await keeper.reconcile())

    async def record(self) -> holding.Record:
        record = holding.record(await self.api.find(api.SECRETS, self.settings.authority_secret, self.namespace))
        self.authorities.update(one.fingerprint for one in record.current)
        return record

    async def bundles(self) -> set[bytes]:
        """Of everything that API servers look at."""
        targets = [
            holding.hooks(kind, await self.api.get(kind, CONFIGURATION), self.settings)
            for kind in (api.MUTATING_WEBHOOKS, api.VALIDATING_WEBHOOKS)
        ]
        targets.append(holding.definition(await self.api.get(api.DEFINITIONS, DEFINITION), self.settings))
        return {bundle for target in targets for bundle in target.bundles} | {
            b"" for target in targets if not target.converts
        }

    async def settled(self) -> bool:
        """Whether one CA is left, is published everywhere and issued the certificate that is served everywhere."""
        record = await self.record()
        if not record.current or record.former or await self.bundles() != {record.current[0].pem}:
            return False
        secret = await self.api.find(api.SECRETS, self.settings.secret, self.namespace)
        certificate = holding.served(secret).certificate
        if not certificate or not certificate.signed_by(record.current[0]):
            return False
        return all(replica.certificates[-1:] == [certificate.fingerprint] for replica in self.replicas)

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]], what: str, within: float = 30) -> None:
        deadline = time.monotonic() + within
        while not await condition():
            assert time.monotonic() < deadline, f"in vain for {within:.0f} s: {what}\n" + "\n".join(self.told)
            await asyncio.sleep(0.1)

    async def request(self) -> None:
        """One that both configurations admit; now and then also one that reads what is stored in another version."""
        self.requests += 1
        try:
            data = {"data": {"number": str(self.requests)}}
            await self.users.merge(api.CONFIG_MAPS, "admitted", data, self.namespace)
            if self.requests % CONVERTED_EACH == 0:
                await self.users.get(NOTES["v1"], "note", self.namespace)
        except ApiError as error:
            self.failures.append(f"{time.time():.2f} {error}")

    async def _request_until(self, enough: asyncio.Event) -> None:
        """One every 50 ms, whether the one before it was answered or not; fewer on a machine that is busy."""
        running = set[asyncio.Task[None]]()
        while not enough.is_set():
            if len(running) < MOST_RUNNING:
                running.add(task := asyncio.create_task(self.request()))
                task.add_done_callback(running.discard)
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.gather(*running)

    @contextlib.asynccontextmanager
    async def requests_all_the_while(self) -> AsyncIterator[None]:
        enough = asyncio.Event()
        requests = asyncio.create_task(self._request_until(enough))
        try:
            yield
        finally:
            enough.set()
            await requests

    @property
    def replaced(self) -> int:
        """CAs."""
        return len(self.authorities) - 1

    @property
    def issued(self) -> int:
        """Certificates that every replica had after its first one."""
        return len(set(self.replicas[1].certificates)) - 1

    @property
    def enough(self) -> bool:
        """Whether a second CA was there to see, a whole rotation after the first, and requests all the while."""
        return self.replaced >= 2 and self.issued >= 5 and self.requests > 400

    @property
    def story(self) -> str:
        return "\n".join([*self.failures[:10], *self.told])


async def _install(world: World) -> None:
    port = {"name": "https", "port": 443, "protocol": "TCP"}
    metadata = {"name": SERVICE, "namespace": world.namespace}
    await world.api.create(SERVICES, {"metadata": metadata, "spec": {"ports": [port]}}, world.namespace)
    await world.api.create(api.CONFIG_MAPS, {"metadata": {"name": "admitted"}}, world.namespace)
    await world.api.create(api.DEFINITIONS, _definition())
    for kind in (api.MUTATING_WEBHOOKS, api.VALIDATING_WEBHOOKS):
        await world.api.create(kind, _configuration(world.namespace))


async def _announce(world: World, replica: Replica) -> None:
    manifest = {
        "metadata": {"generateName": f"{SERVICE}-", "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": replica.port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [Node.address], "conditions": {"ready": True}}],
    }
    await world.api.create(SLICES, manifest, world.namespace)


def _configuration(namespace: str) -> dict[str, Any]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["configmaps"]}
    webhook = {
        "name": CONFIGURATION,
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": SERVICE, "namespace": namespace, "path": "/admit"}},
        "failurePolicy": "Fail",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [rule],
        "sideEffects": "None",
        "timeoutSeconds": 10,
    }
    return {"metadata": {"name": CONFIGURATION}, "webhooks": [webhook]}


def _definition() -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": name, "served": True, "storage": name == "v2", "schema": schema} for name in ("v1", "v2")]
    names = {"plural": "notes", "singular": "note", "kind": "Note", "listKind": "NoteList"}
    spec = {"group": "certificates.example.com", "names": names, "scope": "Namespaced", "versions": versions}
    return {"metadata": {"name": DEFINITION}, "spec": spec}


@contextlib.asynccontextmanager
async def _world(cluster: Cluster, namespace: str, folder: Path, **times: float) -> AsyncIterator[World]:
    """Everything converged, and requests are answered."""
    # Two pools of connections: nobody waits for the other's.
    store, users = [api.Api(await api.connect(cluster.control_plane.admin)) for _ in range(2)]
    world = World(store, users, namespace, folder, **times)
    tasks = []
    try:
        await _install(world)
        world.start_keeper()
        for replica in world.replicas:
            tasks.append(asyncio.create_task(replica.serve()))
            await asyncio.wait_for(replica.ready.wait(), 30)
            await _announce(world, replica)
        await world.until(world.settled, "everything converges")
        await world.api.create(NOTES["v2"], {"metadata": {"name": "note"}, **_kind("v2")}, namespace)
        await world.until(_answered(world), "requests are answered")
        world.requests = 0
        yield world
    finally:
        await world.kill_keeper()
        for kind in (api.MUTATING_WEBHOOKS, api.VALIDATING_WEBHOOKS):
            await store.delete(kind, CONFIGURATION)
        await store.delete(NOTES["v2"], "note", namespace)
        await store.delete(api.DEFINITIONS, DEFINITION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await users.close()
        await store.close()


def _run(story: Coroutine[Any, Any, Result]) -> Result:
    """Run a story; sockets whose handshake had begun when a replica ended are collected without a warning.

    The server's library does not know them before the handshake's end, so it cannot close them.
    """
    try:
        return asyncio.run(story)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def _kind(version: str) -> dict[str, str]:
    return {"apiVersion": NOTES[version].api_version, "kind": "Note"}


def _true(condition: Callable[[], bool]) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def true() -> bool:
        return condition()

    return true


def _answered(world: World) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def answered() -> bool:
        world.failures.clear()
        for _ in range(CONVERTED_EACH):
            await world.request()
        return not world.failures

    return answered


def test_no_request_is_lost_while_certificates_and_authorities_are_replaced(
    cluster: Cluster, namespace: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async def rotate() -> World:
        times = {"server_seconds": 12.0, "authority_seconds": 36.0, "threshold_seconds": 6.0}
        async with _world(cluster, namespace, tmp_path, **times) as world:
            killed, end = random.Random(7), time.monotonic() + LONGEST_SECONDS
            async with world.requests_all_the_while():
                while time.monotonic() < end and not world.enough:
                    await asyncio.sleep(killed.uniform(0.05, 4))
                    await world.kill_keeper()
                    world.start_keeper()
                    await world.record()
            await world.until(world.settled, "everything converges again", 60)
        return world

    world = _run(rotate())
    record_property("requests", world.requests)
    record_property("CAs replaced", world.replaced)
    record_property("certificates replaced on every replica", world.issued)
    assert not world.failures, world.story
    assert world.enough, world.story
    assert sum(replica.answered for replica in world.replicas) >= 2 * world.requests


@pytest.mark.parametrize("lost", ["oneagent-webhook-ca", "oneagent-webhook-certs"])
def test_no_request_is_lost_when_a_secret_is(cluster: Cluster, namespace: str, tmp_path: Path, lost: str) -> None:
    async def lose() -> World:
        async with _world(cluster, namespace, tmp_path) as world:
            before = set(world.replicas[1].certificates)
            async with world.requests_all_the_while():
                await world.api.delete(api.SECRETS, lost, namespace)
                await world.until(_true(lambda: set(world.replicas[1].certificates) > before), "a new certificate")
                await world.until(world.settled, "everything converges again")
        return world

    world = _run(lose())
    assert not world.failures, world.story
    assert world.requests > 20


def test_what_somebody_breaks_is_put_right(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async def break_things() -> None:
        async with _world(cluster, namespace, tmp_path) as world:
            none = {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
            await world.api.merge(api.DEFINITIONS, DEFINITION, none)
            await world.until(world.settled, "the CRD is converted by the webhook again")
            hooks = (await world.api.get(api.VALIDATING_WEBHOOKS, CONFIGURATION))["webhooks"]
            del hooks[0]["clientConfig"]["caBundle"]
            await world.api.merge(api.VALIDATING_WEBHOOKS, CONFIGURATION, {"webhooks": hooks})
            await world.until(world.settled, "the bundle is published again")
            garbage = {"data": {"tls.crt": "Z2FyYmFnZQ==", "tls.key": "Z2FyYmFnZQ=="}}
            await world.api.merge(api.SECRETS, world.settings.secret, garbage, namespace)
            await world.until(world.settled, "there is a new certificate")
            await world.api.delete(api.VALIDATING_WEBHOOKS, CONFIGURATION)
            await world.api.create(api.VALIDATING_WEBHOOKS, _configuration(namespace))
            await world.until(world.settled, "a new configuration has the bundle")
            await world.until(_answered(world), "requests are answered")

    _run(break_things())
