"""What the webhook knows of its cluster, from watches held in memory.

An admission is answered from here without a request, in the normal case. What was created a moment ago may be
missing, as a watch can be later than the pod: a namespace, or its label, or a ReplicaSet is then asked for, once
for all pods that wait for it, and for no longer than half a second.

Of a namespace its labels are kept and those annotations that have to do with us; DynaKubes are few and kept whole.
The breaker is fed from here: by the driver's DaemonSet and by Events about pods that got an empty view.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from oneagent.common import backoff, dynakube, identifiers, logs
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes import errors, list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from oneagent.webhook.cache import circuit_breaker, fallback_lookups, owners
from oneagent.webhook.injection.inputs import Notice, Object, PodContext

log = logging.getLogger(__name__)

DYNAKUBE_VERSION: Final = f"{identifiers.API_GROUP}/v1beta6"
DRIVER_DAEMONSET: Final = "oneagent-csi-driver"

_NAMESPACES: Final = list_watch.Collection("/api/v1/namespaces", metadata_only=True)
_CSI_DRIVERS: Final = list_watch.Collection(
    "/apis/storage.k8s.io/v1/csidrivers", f"metadata.name={identifiers.DRIVER_NAME}", metadata_only=True
)
# The API server keeps no cache of Events: their version may be forgotten after five minutes, and each list goes
# through all Events there are. So a watch of them stands as long as possible.
_EVENTS: Final = list_watch.Collection(
    "/api/v1/events", f"reason={identifiers.AGENT_NOT_MOUNTED}", watch_seconds=2700.0
)
_CLUSTER_ID_OF: Final = "kube-system"
_REVIEW_SECONDS: Final = 2.0
_NONE: Final[Mapping[str, str]] = {}


class Namespace(msgspec.Struct, frozen=True, gc=False):
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Ours only"""


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
    last: datetime | None = msgspec.field(name="lastTimestamp", default=None)


class _Kube(msgspec.Struct, frozen=True):
    manifest: dict[str, Any]
    needs_driver: bool


class Cluster:
    """For one event loop. `told` is called with a DynaKube when the breaker opens or closes for it."""

    def __init__(
        self,
        server: api.Api,
        own_namespace: str,
        circuit: circuit_breaker.Breaker,
        registry: CollectorRegistry,
        told: Callable[[Object, Notice], None] = lambda _kube, _notice: None,
        *,
        first_pause: float = list_watch.FIRST_PAUSE,
        review_seconds: float = _REVIEW_SECONDS,
    ) -> None:
        """The last two are for tests: the first pause after a failure, and how often the breaker is looked at."""
        self._api, self._breaker, self._told, self._review_seconds = server, circuit, told, review_seconds
        self._own = own_namespace
        self._open: set[str] = set()
        self._cluster_id = ""
        self._gauge = Gauge(
            "oneagent_webhook_breaker_open",
            "Whether pods of a DynaKube go through unchanged for now.",
            ["dynakube"],
            registry=registry,
        )
        own = urllib.parse.quote(own_namespace, safe="")
        kubes = list_watch.Collection(f"/apis/{DYNAKUBE_VERSION}/namespaces/{own}/dynakubes")
        daemonset = list_watch.Collection(
            f"/apis/apps/v1/namespaces/{own}/daemonsets", f"metadata.name={DRIVER_DAEMONSET}"
        )
        retry = functools.partial(backoff.Backoff, first_pause, list_watch.LONGEST_PAUSE)
        self._namespaces = Watch(server, _NAMESPACES, self._read_namespace, retry=retry())
        self._kubes = Watch(server, kubes, _read_kube, self._kubes_changed, retry=retry())
        self._csi_drivers = Watch(server, _CSI_DRIVERS, _read_name, retry=retry())
        self._daemonset = Watch(server, daemonset, _read_daemonset, self._driver_changed, retry=retry())
        self._events = Watch(server, _EVENTS, self._read_event, retry=retry())
        self._workloads = owners.Workloads(server, first_pause=first_pause)
        self._lookups = fallback_lookups.Lookups(self._fetch_namespace)

    @property
    def is_synced(self) -> bool:
        """Whether all is known that an admission can't do without."""
        return self._namespaces.is_synced and self._kubes.is_synced and self._csi_drivers.is_synced

    @property
    def lacks_dynakubes(self) -> bool:
        """Whether nothing else is missing."""
        return self._namespaces.is_synced and self._csi_drivers.is_synced and not self._kubes.is_synced

    @property
    def csi(self) -> bool:
        return identifiers.DRIVER_NAME in self._csi_drivers.objects

    @property
    def csi_known(self) -> bool:
        return self._csi_drivers.is_synced

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in (self._namespaces, self._kubes, self._csi_drivers, self._daemonset):
                group.create_task(watch.run())
            group.create_task(self._workloads.run())
            group.create_task(self._follow_events())
            group.create_task(self._review_regularly())

    def namespace(self, name: str) -> Object | None:
        found = self._namespaces.objects.get(name)
        if found is None:
            return None
        metadata = {"name": name, "labels": found.labels, "annotations": found.annotations}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Of all namespaces, by name."""
        return {name: found.labels for name, found in self._namespaces.objects.items()}

    def dynakube(self, name: str) -> Object | None:
        found = self._kubes.objects.get(f"{self._own}/{name}")
        return found.manifest if found is not None else None

    def dynakubes(self) -> Sequence[Object]:
        return [kube.manifest for kube in self._kubes.objects.values()]

    async def facts(self, namespace: str, pod: Object) -> PodContext | None:
        """None if the namespace is no DynaKube's, or cannot be known now."""
        if not self.is_synced:
            return None
        found = await self._labelled(namespace)
        if found is None:
            return None
        kube = found.labels[namespace_mapping.LABEL]
        return PodContext(
            namespace=namespace,
            namespace_labels=found.labels,
            namespace_annotations=found.annotations,
            dynakube=self.dynakube(kube),
            workload=await self._workloads.of(namespace, pod),
            cluster_id=self._cluster_id,
            csi=self.csi,
            driver_trouble=self.trouble(kube),
        )

    def trouble(self, dynakube: str) -> str:
        """Why pods of a DynaKube go through unchanged for now, for people; empty if they don't."""
        found = self._kubes.objects.get(f"{self._own}/{dynakube}")
        needed = self.csi and found is not None and found.needs_driver
        return self._breaker.trouble(dynakube) if needed else ""

    async def _labelled(self, name: str) -> Namespace | None:
        """A namespace without the label is asked for as well: the API server sends only pods of labelled ones."""
        found = self._namespaces.objects.get(name)
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
        """Nothing is kept here: the breaker counts."""
        event = errors.decode(content, _Event)
        namespace = self._namespaces.objects.get(event.about.namespace)
        kube = namespace.labels.get(namespace_mapping.LABEL) if namespace is not None else None
        at = event.last or event.metadata.created
        if kube and at and event.about.kind == "Pod":
            pod = event.about.uid or f"{event.about.namespace}/{event.about.name}"
            self._breaker.failed(kube, pod, at.timestamp(), event.source.host)

    async def _follow_events(self) -> None:
        await self._namespaces.wait_until_synced()  # They tell whose an Event's pod is.
        await self._events.run()

    def _driver_changed(self, _: object) -> None:
        driver = self._daemonset.objects.get(next(iter(self._daemonset.objects), ""))
        if driver is None or driver.metadata.deleted:
            # An uninstall keeps its pods for as long as others need them, but not for new ones.
            self._breaker.driver_is_gone()
        else:
            self._breaker.driver_is(driver.status.desired, driver.status.ready)

    def _kubes_changed(self, _: object) -> None:
        kept = {kube["metadata"]["name"] for kube in self.dynakubes()}
        self._breaker.keep(kept)
        self._open &= kept
        self._gauge.clear()
        self._review()

    async def _review_regularly(self) -> None:
        """Time alone opens and closes the breaker, so nothing else can tell when it has."""
        while True:
            self._review()
            await asyncio.sleep(self._review_seconds)

    def _review(self) -> None:
        for kube in self.dynakubes():
            name = kube["metadata"]["name"]
            trouble = self.trouble(name)
            self._gauge.labels(name).set(bool(trouble))
            if bool(trouble) != (name in self._open):
                self._turn(kube, name, trouble)

    def _turn(self, kube: Object, name: str, trouble: str) -> None:
        if trouble:
            self._open.add(name)
            log.warning("new pods go through unchanged", extra=logs.facts(dynakube=name, reason=trouble))
            self._told(kube, Notice("Warning", circuit_breaker.PAUSED, f"New pods are not injected for now: {trouble}"))
        else:
            self._open.discard(name)
            log.info("new pods are injected again", extra=logs.facts(dynakube=name))
            self._told(kube, Notice("Normal", circuit_breaker.RESUMED, "New pods are injected again"))


def _is_ours(key: str) -> bool:
    domain = key.partition("/")[0]
    return domain == "dynatrace.com" or domain.endswith(".dynatrace.com")


def _read_name(content: msgspec.Raw) -> None:
    """That it is there says it all."""
    errors.decode(content, _Object)


def _read_daemonset(content: msgspec.Raw) -> _DaemonSet:
    return errors.decode(content, _DaemonSet)


def _read_kube(content: msgspec.Raw) -> _Kube:
    # The items of a list may come without these two.
    manifest: dict[str, Any] = {"apiVersion": DYNAKUBE_VERSION, "kind": "DynaKube"} | errors.decode(
        content, dict[str, Any]
    )
    manifest["metadata"].pop("managedFields", None)
    try:
        needs_driver = dynakube.from_manifest(manifest).needs_app_views
    except dynakube.DynaKubeError:
        needs_driver = False  # The driver cannot read it either.
    return _Kube(manifest, needs_driver)
