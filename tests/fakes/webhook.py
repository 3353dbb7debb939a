"""The webhook's server, really served on loopback over TLS, with a cluster and deciders that a test can change.

`Serving` runs it in a thread of this process; requests are made as an API server makes them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx2 as httpx
import prometheus_client
import trustme

from oneagent.common.http import server_tls
from oneagent.webhook import admission, events
from oneagent.webhook.http_server import Server, Settings
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext, Workload
from oneagent.webhook.metrics import Metrics

T = TypeVar("T")
Json = dict[str, Any]

HOST = "oneagent-webhook.dynatrace.svc"
NAMESPACE = "dynatrace"
FACTS = PodContext("shop", {}, {}, None, Workload("Deployment", "cart"), "cluster", csi=True)
PATCH = [{"op": "add", "path": "/metadata/annotations", "value": {"oneagent.dynatrace.com/injected": "true"}}]


@dataclass
class Cluster:
    """An `admission.Cluster` that knows what it is told, after `seconds`."""

    is_synced: bool = True
    kubes: list[Object] = field(default_factory=list)
    known: PodContext | None = FACTS
    seconds: float = 0.0
    error: Exception | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    def dynakubes(self) -> Sequence[Object]:
        if self.error:
            raise self.error
        return self.kubes

    async def pod_context(self, namespace: str, pod: Object) -> PodContext | None:
        self.asked.set()
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        return self.known


@dataclass(frozen=True)
class Verdict:
    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass
class Decisions:
    """What the deciders say."""

    outcome: InjectionResult = field(default_factory=lambda: InjectionResult(injected=True, reason="", patch=PATCH))
    verdict: Verdict = Verdict()
    error: Exception | None = None
    seen: list[Object | None] = field(default_factory=list)

    def inject(self, pod: Object, facts: PodContext) -> InjectionResult:
        self.seen.append(pod)
        if self.error:
            raise self.error
        return self.outcome

    async def validate(self, new: Object, old: Object | None) -> Verdict:
        self.seen += [new, old]
        if self.error:
            raise self.error
        return self.verdict


@dataclass
class Journal:
    """An `event_writer.Client` that keeps what it is given."""

    written: list[tuple[str, Object]] = field(default_factory=list)
    error: Exception | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def post(self, path: str, body: Object) -> None:
        if self.error:
            raise self.error
        with self.changed:
            self.written.append((path, body))
            self.changed.notify_all()

    apply_path = post

    def wait(self, count: int) -> list[tuple[str, Object]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.written) >= count, 10)
            return list(self.written)


def pair(authority: trustme.CA, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> server_tls.Pair:
    leaf = authority.issue_cert(HOST, "127.0.0.1", key_type=key_type)
    return server_tls.Pair(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())


class Serving:
    """A server at work in a thread of its own while in use as a context manager."""

    def __init__(self, *, drain_seconds: float = 0.0) -> None:
        self.cluster, self.decisions, self.journal = Cluster(), Decisions(), Journal()
        self.authority = trustme.CA()
        self.registry = prometheus_client.CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.tls = server_tls.ServerTls(self.metrics.certificate_expiry.set)
        self._settings = Settings("127.0.0.1", 0, drain_seconds=drain_seconds, finish_seconds=5.0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stopping: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.do(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        said = events.Recorder(self.journal, self.metrics, pause_seconds=0.0)
        self._writing = asyncio.create_task(said.run())
        handlers = admission.Handlers(
            self.decisions.inject,
            self.decisions.validate,
            "\n".join,
        )
        answers = admission.Admission(self.cluster, handlers, said, NAMESPACE)
        self.tls.load(lambda: pair(self.authority))
        self.server = Server(self._settings, self.tls.context, answers, self.metrics)
        await self.server.start()

    def begin_to_stop(self) -> None:
        async def begin() -> None:
            self._stopping = asyncio.create_task(self.server.stop())
            await asyncio.sleep(0)

        if self._stopping is None:
            self.do(begin())

    def stop(self) -> None:
        async def stop() -> None:
            assert self._stopping is not None
            await self._stopping
            self._writing.cancel()

        self.begin_to_stop()
        self.do(stop())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def serve(self, new: server_tls.Pair) -> None:
        """As the watch of the Secret does."""

        async def take() -> None:
            self.tls.load(lambda: new)

        self.do(take())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    def client(self, *authorities: trustme.CA) -> httpx.Client:
        """One that trusts these, or the first one."""
        context = trusting(*(authorities or (self.authority,)))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)

    def counted(self, path: str, outcome: str, reason: str = "") -> float:
        labels = {"path": path, "outcome": outcome, "reason": reason}
        return self.registry.get_sample_value("oneagent_webhook_requests_total", labels) or 0.0

    def covered(self) -> dict[tuple[str, str, str], float]:
        """Admitted pods by DynaKube, namespace and outcome."""
        (family,) = (one for one in self.registry.collect() if one.name == "oneagent_webhook_pods")
        samples = [one for one in family.samples if one.name.endswith("_total")]
        return {
            (each.labels["dynakube"], each.labels["pod_namespace"], each.labels["outcome"]): each.value
            for each in samples
        }


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="".join(one.cert_pem.bytes().decode() for one in authorities))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def review(
    obj: Mapping[str, Any] | None, operation: str = "CREATE", old: Mapping[str, Any] | None = None, **request: Any
) -> Json:
    """What an API server asks about an object."""
    kind = (obj or old or {}).get("kind", "")
    given: Json = {"uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": kind}, "operation": operation}
    given |= {"name": "", "namespace": "shop", "userInfo": {"username": "someone"}, "object": obj, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**given, **request}}


def ask(client: httpx.Client, path: str, review: Mapping[str, Any]) -> Json:
    """The response in a review that is answered as it has to be."""
    answer = client.post(f"{path}?timeout=10s", json=review)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert (content["apiVersion"], content["kind"]) == (review["apiVersion"], review["kind"])
    assert content["response"]["uid"] == review["request"]["uid"]
    response: Json = content["response"]
    return response


def patch(response: Mapping[str, Any]) -> list[Json]:
    """The operations of a response; none if it changes nothing."""
    assert ("patch" in response) == (response.get("patchType") == "JSONPatch")
    operations: list[Json] = json.loads(base64.b64decode(response["patch"])) if "patch" in response else []
    return operations


def notice(message: str = "it was not injected") -> Notice:
    return Notice("Warning", "NotInjected", message)
