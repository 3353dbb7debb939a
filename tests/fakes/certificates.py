"""A cluster in memory for the certificates: Secrets, configurations, replicas of a webhook, API servers that lag.

It keeps objects as an API server does (versions, conflicts, merge patches), and for each bundle what it has been,
since an API server may heed for a while what it was before.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
from base64 import b64decode
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cryptography import x509
from cryptography.x509 import verification

from oneagent.common.kubernetes.errors import ApiError, ConflictError, InvalidError, NotFoundError
from oneagent.operator import api
from oneagent.operator.certificates import x509 as certificates_x509

T = TypeVar("T")
Key = tuple[str, str]

NAMESPACE = "dynatrace"
SERVICE = "oneagent-webhook"
CERTS: Key = ("Secret", "oneagent-webhook-certs")
AUTHORITY: Key = ("Secret", "oneagent-webhook-ca")
MUTATING: Key = ("MutatingWebhookConfiguration", SERVICE)
VALIDATING: Key = ("ValidatingWebhookConfiguration", SERVICE)
DEFINITION: Key = ("CustomResourceDefinition", "dynakubes.dynatrace.com")


class KilledError(Exception):
    """The process ended here."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of something that never really waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits for something")


@dataclass
class Cluster:
    """A `keeper.Store`."""

    now: float
    objects: dict[Key, api.Object] = field(default_factory=dict)
    history: dict[Key, list[tuple[float, bytes]]] = field(default_factory=dict)
    """Of the bundle of each configuration: since when it has been what."""
    writes: list[tuple[str, Key]] = field(default_factory=list)
    reads: int = 0
    failing: dict[Key, type[ApiError]] = field(default_factory=dict)
    before_write: Callable[[Key], None] = lambda key: None
    after_write: Callable[[Key], None] = lambda key: None
    _versions: int = 0

    def clock(self) -> float:
        return self.now

    def put(self, key: Key, obj: Mapping[str, Any]) -> None:
        """As somebody else writes."""
        self._versions += 1
        stored = copy.deepcopy(dict(obj))
        stored["metadata"] = {**stored["metadata"], "resourceVersion": str(self._versions)}
        self.objects[key] = stored
        bundles = {b64decode(config.get("caBundle") or "") for config in _configs(stored)}
        past = self.history.setdefault(key, [])
        if bundles and (not past or {past[-1][1]} != bundles):
            past.extend((self.now, bundle) for bundle in sorted(bundles))

    def touch(self, key: Key) -> None:
        if key in self.objects:
            self.put(key, self.objects[key])

    def remove(self, key: Key) -> None:
        self.objects.pop(key, None)
        self.history.pop(key, None)

    def bundles(self, key: Key, lag_seconds: float = 0) -> set[bytes]:
        """What API servers may heed just now, the slowest of them."""
        past = self.history.get(key, [])
        heeded = {bundle for since, bundle in past if since > self.now - lag_seconds}
        before = [bundle for since, bundle in past if since <= self.now - lag_seconds]
        return heeded | set(before[-1:])

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None:
        key = (resource.kind, name)
        self.reads += 1
        self._fail(key)
        found = self.objects.get(key)
        return copy.deepcopy(found)

    async def create(self, resource: api.Resource, obj: Mapping[str, Any], namespace: str = "") -> api.Object:
        key = (resource.kind, obj["metadata"]["name"])
        self._begin("create", key)
        if key in self.objects:
            raise ConflictError("it exists")
        assert "resourceVersion" not in obj["metadata"]
        return self._done(key, obj)

    async def replace(self, resource: api.Resource, obj: Mapping[str, Any]) -> api.Object:
        key = (resource.kind, obj["metadata"]["name"])
        self._begin("replace", key)
        before = self._fresh(key, obj)
        if before.get("immutable") or before["type"] != obj["type"]:
            raise InvalidError("it does not change")
        return self._done(key, obj)

    async def merge(self, resource: api.Resource, name: str, patch: Mapping[str, Any]) -> api.Object:
        key = (resource.kind, name)
        self._begin("merge", key)
        return self._done(key, _merged(self._fresh(key, patch), patch))

    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None:
        key = (resource.kind, name)
        self._begin("delete", key)
        self.remove(key)
        self.after_write(key)

    def _begin(self, verb: str, key: Key) -> None:
        self._fail(key)
        self.before_write(key)
        self.writes.append((verb, key))

    def _fail(self, key: Key) -> None:
        if key in self.failing:
            raise self.failing[key]("not now")

    def _fresh(self, key: Key, given: Mapping[str, Any]) -> api.Object:
        if key not in self.objects:
            raise NotFoundError("it is gone")
        before = self.objects[key]
        if given["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]:
            raise ConflictError("it has changed")
        return before

    def _done(self, key: Key, obj: Mapping[str, Any]) -> api.Object:
        self.put(key, obj)
        self.after_write(key)
        return self.objects[key]


@dataclass
class Replica:
    """Serves what was in the Secret when it last looked, if that could be used."""

    pair: certificates_x509.Pair | None = None

    def reload(self, cluster: Cluster) -> None:
        data = cluster.objects.get(CERTS, {}).get("data") or {}
        with contextlib.suppress(certificates_x509.UnusableError, ValueError):
            self.pair = certificates_x509.read_pair(
                b64decode(data.get("tls.crt", "")), b64decode(data.get("tls.key", ""))
            )


def serving(replicas: list[Replica]) -> Callable[[bytes], Coroutine[Any, Any, bool]]:
    """A `keeper.Probe` of replicas; those that have nothing to serve are not ready."""

    async def probe(fingerprint: bytes) -> bool:
        pairs = [replica.pair for replica in replicas if replica.pair]
        return bool(pairs) and all(bytes.fromhex(pair.certificate.fingerprint) == fingerprint for pair in pairs)

    return probe


@functools.lru_cache(
    maxsize=100
)  # Several configurations have the same bundle at one time, several replicas one certificate.
def verifies(certificate: certificates_x509.Certificate, bundle: bytes, host: str, now: float) -> bool:
    """Whether a strict client takes the certificate."""
    roots = certificates_x509.read_bundle(bundle)
    if not roots:
        return False
    policy = verification.PolicyBuilder().store(verification.Store([root.x509 for root in roots]))
    policy = policy.time(datetime.datetime.fromtimestamp(now, datetime.UTC))
    try:
        policy.build_server_verifier(x509.DNSName(host)).verify(certificate.x509, [])
    except verification.VerificationError:
        return False
    return True


def configuration(kind: str, *names: str, service: str = SERVICE) -> api.Object:
    """A webhook configuration as the chart installs it: without a bundle."""
    client = {"service": {"name": service, "namespace": NAMESPACE, "path": "/x", "port": 443}}
    webhooks = [{"name": name, "clientConfig": dict(client), "timeoutSeconds": 10} for name in names or ("one",)]
    return {"kind": kind, "metadata": {"name": SERVICE}, "webhooks": webhooks}


def definition() -> api.Object:
    spec = {"group": "dynatrace.com", "conversion": {"strategy": "None"}, "versions": [{"name": "v1beta6"}]}
    return {"kind": DEFINITION[0], "metadata": {"name": DEFINITION[1]}, "spec": spec}


def _configs(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of our webhook."""
    conversion = ((obj.get("spec") or {}).get("conversion") or {}).get("webhook") or {}
    configs = [webhook["clientConfig"] for webhook in obj.get("webhooks") or ()]
    configs += [conversion["clientConfig"]] if conversion else []
    return [config for config in configs if (config.get("service") or {}).get("name") == SERVICE]


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(before) if isinstance(before, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged
