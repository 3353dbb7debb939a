"""The webhook's cache of cluster objects, filled by watches.

Admissions are normally answered from here without a request. An object that was created a moment ago may be missing,
because a watch can be later than the pod. A namespace, its label, or a ReplicaSet is then read: once for all pods
that wait for it, and for half a second at most.

Of a namespace the cache holds the labels and our annotations; DynaKubes are few and stored whole. The cache also
updates the circuit breaker: from the driver's DaemonSet, and from its Events about DynaKubes whose pods got an empty
view. Those are in the own namespace. Events about pods prove nothing: every user may write them in his own.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from oneagent.common import backoff, dynakube, identifiers, logs, typed_json
from oneagent.common.agents import objects, opentelemetry
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api.versions import NEWEST
from oneagent.common.injection import contract
from oneagent.common.kubernetes import errors, fields, list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from oneagent.webhook.cache import circuit_breaker, fallback_lookups, namespace_limits, owners
from oneagent.webhook.injection.inputs import Notice, Object, PodContext

log = logging.getLogger(__name__)

DYNAKUBE_VERSION: Final = f"{identifiers.API_GROUP}/{NEWEST}"
DRIVER_DAEMONSET: Final = "oneagent-csi-driver"

_NAMESPACES: Final = list_watch.Collection("/api/v1/namespaces", metadata_only=True)
_CSI_DRIVERS: Final = list_watch.Collection(
    "/apis/storage.k8s.io/v1/csidrivers", f"metadata.name={identifiers.DRIVER_NAME}", metadata_only=True
)
_EVENTS: Final = f"reason={contract.POD_WITHOUT_AGENT},involvedObject.kind=DynaKube"
_EVENTS_OF_INJECTIONS: Final = _EVENTS.replace("=DynaKube", f"={identifiers.INJECTION_KIND}")
_CLUSTER_ID_OF: Final = "kube-system"
_REVIEW_SECONDS: Final = 2.0
_LONGEST_DYNAKUBES_PAUSE: Final = 2.0
_NONE: Final[Mapping[str, str]] = {}


class Namespace(msgspec.Struct, frozen=True, gc=False):
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Of our domain only."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    created: datetime | None = msgspec.field(name="creationTimestamp", default=None)
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Status(msgspec.Struct, frozen=True):
    desired: int = msgspec.field(name="desiredNumberScheduled", default=0)
    ready: int = msgspec.field(name="numberReady", default=0)


class _DaemonSet(_Object, frozen=True):
    status: _Status = _Status()


class _Involved(msgspec.Struct, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class _Source(msgspec.Struct, frozen=True):
    host: str = ""


class _Event(_Object, frozen=True):
    source: _Source = _Source()
    about: _Involved = msgspec.field(name="involvedObject", default=_Involved())
    related: _Involved = _Involved()
    last: datetime | None = msgspec.field(name="lastTimestamp", default=None)


class _DynaKube(msgspec.Struct, frozen=True):
    manifest: dict[str, Any]
    needs_driver: bool


class ClusterCache:
    """For one event loop. `notify` is called with a DynaKube when the breaker opens or closes for it."""

    def __init__(
        self,
        server: api.Api,
        own_namespace: str,
        circuit: circuit_breaker.CircuitBreaker,
        registry: CollectorRegistry,
        notify: Callable[[Object, Notice], None] = lambda _dynakube, _notice: None,
        *,
        injections: bool = False,
        first_pause: float = list_watch.FIRST_PAUSE,
        review_seconds: float = _REVIEW_SECONDS,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        """`injections`: OpenTelemetryInjections become DynaKubes.

        For tests: the first pause after a failure, the interval of the breaker's reviews, and the watches' times."""
        self._api, self._breaker, self._notify, self._review_seconds = server, circuit, notify, review_seconds
        self._own = own_namespace
        self._open: set[str] = set()
        self._cluster_id = ""
        self._gauge = Gauge(
            "oneagent_webhook_breaker_open",
            "1 while pods of a DynaKube are admitted without injection.",
            ["dynakube"],
            registry=registry,
        )
        own = urllib.parse.quote(own_namespace, safe="")
        namespaces, csi_drivers = (replace(each, periods=periods) for each in (_NAMESPACES, _CSI_DRIVERS))
        collection = list_watch.Collection(f"/apis/{DYNAKUBE_VERSION}/namespaces/{own}/dynakubes", periods=periods)
        daemonset = list_watch.Collection(
            f"/apis/apps/v1/namespaces/{own}/daemonsets", f"metadata.name={DRIVER_DAEMONSET}", periods=periods
        )
        failures = list_watch.Collection(f"/api/v1/namespaces/{own}/events", _EVENTS, periods=periods)
        retry = functools.partial(backoff.Backoff, first_pause, list_watch.LONGEST_PAUSE)
        self._namespaces = Watch(server, namespaces, self._read_namespace, retry=retry())
        # Stored in an older version they are converted by this webhook: a list fails until API servers reach it.
        soon = backoff.Backoff(first_pause, _LONGEST_DYNAKUBES_PAUSE)
        self._dynakubes = Watch(server, collection, _read_dynakube, self._dynakubes_changed, retry=soon)
        self._injections: Watch[_DynaKube] | None = None
        self._injection_events: Watch[None] | None = None
        if injections:
            path = f"/apis/{objects.INJECTION_API}/namespaces/{own}/{identifiers.INJECTION_PLURAL}"
            found = list_watch.Collection(path, periods=periods)
            self._injections = Watch(server, found, _read_injection, self._dynakubes_changed, retry=retry())
            failures_of = replace(failures, field_selector=_EVENTS_OF_INJECTIONS)
            self._injection_events = Watch(server, failures_of, self._read_event, retry=retry())
        self._csi_drivers = Watch(server, csi_drivers, _read_name, retry=retry())
        self._daemonset = Watch(server, daemonset, _read_daemonset, self._driver_changed, retry=retry())
        self._events = Watch(server, failures, self._read_event, retry=retry())
        self._workloads = owners.Workloads(server, first_pause=first_pause, periods=periods)
        self._limits = namespace_limits.NamespaceLimits(server, first_pause=first_pause, periods=periods)
        self._lookups = fallback_lookups.FallbackLookups(self._fetch_namespace)

    @property
    def watches(self) -> Sequence[Watch[Any]]:
        own = (self._namespaces, self._dynakubes, self._csi_drivers, self._daemonset, self._events)
        return (*own, *self._of_injections, *self._workloads.watches, *self._limits.watches)

    @property
    def _of_injections(self) -> Sequence[Watch[Any]]:
        return [watch for watch in (self._injections, self._injection_events) if watch is not None]

    @property
    def is_synced(self) -> bool:
        """Everything that an admission needs has been listed."""
        has_injections = self._injections is None or self._injections.is_synced
        return (
            self._namespaces.is_synced and self._dynakubes.is_synced and self._csi_drivers.is_synced and has_injections
        )

    @property
    def lacks_only_dynakubes(self) -> bool:
        """Everything but the DynaKubes has been listed."""
        return self._namespaces.is_synced and self._csi_drivers.is_synced and not self._dynakubes.is_synced

    @property
    def has_csi_driver(self) -> bool:
        return identifiers.DRIVER_NAME in self._csi_drivers.objects

    @property
    def is_csi_driver_known(self) -> bool:
        return self._csi_drivers.is_synced

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in (self._namespaces, self._dynakubes, self._csi_drivers, self._daemonset):
                group.create_task(watch.run())
            if self._injections is not None:
                group.create_task(self._injections.run())
            group.create_task(self._workloads.run())
            group.create_task(self._limits.run())
            group.create_task(self._watch_events())
            group.create_task(self._review_periodically())

    def namespace(self, name: str) -> Object | None:
        found = self._namespaces.objects.get(name)
        if found is None:
            return None
        metadata = {"name": name, "labels": found.labels, "annotations": found.annotations}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Labels of all namespaces, by name."""
        return {name: found.labels for name, found in self._namespaces.objects.items()}

    def dynakube(self, name: str) -> Object | None:
        found = self._find(name)
        return found.manifest if found is not None else None

    def dynakubes(self) -> Sequence[Object]:
        """Return all DynaKubes, and OpenTelemetryInjections in the form of one."""
        injections = self._injections.objects if self._injections is not None else {}
        return [found.manifest for found in (*self._dynakubes.objects.values(), *injections.values())]

    def _find(self, dynakube: str) -> _DynaKube | None:
        name = objects.name_of(dynakube)
        watch = self._dynakubes if name == dynakube else self._injections
        return watch.objects.get(f"{self._own}/{name}") if watch is not None else None

    async def pod_context(self, namespace: str, pod: Object) -> PodContext | None:
        """Return None if no DynaKube monitors the namespace, or the caches are not synced."""
        if not self.is_synced:
            return None
        found = await self._get_labelled(namespace)
        if found is None:
            return None
        dynakube = found.labels[namespace_mapping.LABEL]
        return PodContext(
            namespace=namespace,
            namespace_labels=found.labels,
            namespace_annotations=found.annotations,
            dynakube=self.dynakube(dynakube),
            workload=await self._workloads.find(namespace, pod),
            cluster_id=self._cluster_id,
            csi=self.has_csi_driver,
            limits=self._limits.find(namespace),
            driver_problem=self.pause_reason(dynakube),
        )

    def pause_reason(self, dynakube: str) -> str:
        """Return the reason why pods of a DynaKube are admitted without injection; empty if they are not."""
        found = self._find(dynakube)
        needed = self.has_csi_driver and found is not None and found.needs_driver
        return self._breaker.open_reason(dynakube) if needed else ""

    async def _get_labelled(self, name: str) -> Namespace | None:
        """Read a namespace also if its label is missing: the API server sends only pods of labelled ones."""
        found = self._namespaces.objects.get(name)
        if not fields.is_dns_name(name):
            return None
        if found is None or namespace_mapping.LABEL not in found.labels:
            found = await self._lookups.get(name)
        return found if found is not None and namespace_mapping.LABEL in found.labels else None

    async def _fetch_namespace(self, name: str) -> Namespace:
        path = f"{_NAMESPACES.path}/{urllib.parse.quote(name, safe='')}"
        accept = _NAMESPACES.accept()
        return self._read_namespace(await self._api.read(path, accept=accept, seconds=fallback_lookups.WAIT_SECONDS))

    def _read_namespace(self, content: msgspec.Raw | bytes) -> Namespace:
        metadata = errors.decode(content, _Object).metadata
        if metadata.name == _CLUSTER_ID_OF:
            self._cluster_id = metadata.uid
        ours = {sys.intern(key): value for key, value in (metadata.annotations or {}).items() if _is_ours(key)}
        # Thousands of namespaces share their keys.
        labels = {sys.intern(key): value for key, value in (metadata.labels or {}).items()}
        return Namespace(labels, ours or _NONE)

    def _read_event(self, content: msgspec.Raw) -> None:
        """Count a failure; nothing is stored.

        A pod names the DynaKube of its volume itself: it counts only for the one that its namespace belongs to.
        """
        event = errors.decode(content, _Event)
        pod, dynakube = event.related, event.about.name
        if event.about.kind == identifiers.INJECTION_KIND:
            dynakube = opentelemetry.PROFILE.name_prefix + dynakube
        namespace = self._namespaces.objects.get(pod.namespace)
        owner = namespace.labels.get(namespace_mapping.LABEL) if namespace is not None else None
        at = event.last or event.metadata.created
        if dynakube and dynakube == owner and at:
            name = pod.uid or f"{pod.namespace}/{pod.name}"
            self._breaker.record_failure(dynakube, name, at.timestamp(), event.source.host)

    async def _watch_events(self) -> None:
        await self._namespaces.wait_until_synced()  # They tell the DynaKube of an Event's pod.
        async with asyncio.TaskGroup() as group:
            for watch in (self._events, self._injection_events):
                if watch is not None:
                    group.create_task(watch.run())

    def _driver_changed(self, _: object) -> None:
        driver = self._daemonset.objects.get(next(iter(self._daemonset.objects), ""))
        if driver is None or driver.metadata.deleted:
            # After an uninstall its pods serve running pods only, not new ones.
            self._breaker.remove_driver()
        else:
            self._breaker.update_driver(driver.status.desired, driver.status.ready)

    def _dynakubes_changed(self, _: object) -> None:
        kept = {obj["metadata"]["name"] for obj in self.dynakubes()}
        self._breaker.retain(kept)
        self._open &= kept
        self._gauge.clear()
        self._review()

    async def _review_periodically(self) -> None:
        """Time alone opens and closes the breaker, without any event."""
        while True:
            self._review()
            await asyncio.sleep(self._review_seconds)

    def _review(self) -> None:
        for obj in self.dynakubes():
            name = obj["metadata"]["name"]
            pause_reason = self.pause_reason(name)
            self._gauge.labels(name).set(bool(pause_reason))
            if bool(pause_reason) != (name in self._open):
                self._set_open(obj, name, pause_reason)

    def _set_open(self, obj: Object, name: str, pause_reason: str) -> None:
        if pause_reason:
            self._open.add(name)
            log.warning("injection paused", extra=logs.fields(dynakube=name, reason=pause_reason))
            self._notify(
                obj, Notice("Warning", circuit_breaker.PAUSED, f"Injection of new pods is paused: {pause_reason}")
            )
        else:
            self._open.discard(name)
            log.info("injection resumed", extra=logs.fields(dynakube=name))
            self._notify(obj, Notice("Normal", circuit_breaker.RESUMED, "Injection of new pods has resumed"))


def _is_ours(key: str) -> bool:
    domain = key.partition("/")[0]
    return domain == "dynatrace.com" or domain.endswith(".dynatrace.com")


def _read_name(content: msgspec.Raw) -> None:
    """Check that it is an object; only its existence matters."""
    errors.decode(content, _Object)


def _read_daemonset(content: msgspec.Raw) -> _DaemonSet:
    return errors.decode(content, _DaemonSet)


def _read_dynakube(content: msgspec.Raw) -> _DynaKube:
    # The items of a list may come without these two fields.
    manifest: dict[str, Any] = {"apiVersion": DYNAKUBE_VERSION, "kind": "DynaKube"} | errors.decode(
        content, dict[str, Any]
    )
    return _with_needs(manifest)


def _read_injection(content: msgspec.Raw) -> _DynaKube:
    from oneagent.common.agents.opentelemetry import injection  # Needed only where there are such objects.

    manifest: dict[str, Any] = {"apiVersion": objects.INJECTION_API, "kind": identifiers.INJECTION_KIND}
    return _with_needs(injection.normalize_stored(manifest | errors.decode(content, dict[str, Any])))


def _with_needs(manifest: dict[str, Any]) -> _DynaKube:
    manifest["metadata"].pop("managedFields", None)
    try:
        kube = dynakube.from_object(manifest)
        is_enriching = fields.flag(manifest, "spec.metadataEnrichment.enabled") is True
        needs_driver = kube.needs_views or (kube.allows_csi and is_enriching)
    except dynakube.DynaKubeError:
        needs_driver = False  # The driver cannot read it either.
    return _DynaKube(manifest, needs_driver)


typed_json.prepare(_Object, _Event, _DaemonSet, _DynaKube)
