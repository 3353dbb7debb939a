"""Watches of the API server: they fill `Cache` and report changes to a `Listener`.

Every collection is listed and watched on its own. A list after a broken watch reports deletions as well, so nothing
has to be listed again from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import msgspec

from oneagent.common import backoff, logs, node_lease, typed_json
from oneagent.common.agents import opentelemetry
from oneagent.common.identifiers import DRIVER_NAME, DynaKubeName
from oneagent.common.kubernetes import errors, list_watch, watch_silence
from oneagent.common.kubernetes.watch import Client, Watch
from oneagent.common.node_lease import NodeReport
from oneagent.operator import api
from oneagent.operator import cache as cache_
from oneagent.operator.cache import KUBE_SYSTEM, Cache
from oneagent.operator.host_agents import spec

log = logging.getLogger(__name__)

DRIVER_LABELS: Final = "app.kubernetes.io/name=oneagent-csi,app.kubernetes.io/component=csi-driver"
AGENT_LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_LONGEST_PAUSE_SECONDS: Final = 5.0
"""One operator alone is no crowd."""

_T = TypeVar("_T")
_T_contra = TypeVar("_T_contra", contravariant=True)


class Listener(Protocol):
    """Receiver of changes; called in the event loop's thread, after `Cache` has changed."""

    def dynakube_changed(self, name: DynaKubeName) -> None: ...
    def namespace_changed(self, name: str) -> None: ...
    def object_changed(self, kind: str, name: str) -> None:
        """A Secret, ConfigMap, DaemonSet or host agent's Pod of the own namespace, a Node, CSINode or CSIDriver.

        Or a `NodeReport`, by the name of its Lease, or with a startup taint a `DriverPod`.
        """
        ...

    def cluster_restored(self) -> None:
        """etcd has an older state than before: what was written since may be lost."""
        ...


class _OnList(Protocol[_T_contra]):
    def __call__(self, listed: Mapping[str, _T_contra], *, is_restored: bool) -> None: ...


class Watches:
    def __init__(
        self,
        client: Client,
        namespace: str,
        dynakubes: api.Resource,
        cache: Cache,
        listener: Listener,
        *,
        startup_taint: bool = False,
        injections: bool = False,
        first_pause: float = list_watch.FIRST_PAUSE,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        """`startup_taint`: report changes of nodes' taints and of CSINodes as well.

        `injections`: OpenTelemetryInjections become DynaKubes.
        """
        self._client, self._namespace = client, namespace
        self._first_pause, self._periods = first_pause, periods
        self._cache, self._listener = cache, listener
        self._nodes: dict[str, _Node] = {}
        agents = ",".join(f"{key}={value}" for key, value in AGENT_LABELS.items())
        self._needed: tuple[Watch[Any], ...] = (
            self._watch(dynakubes, _reader(dynakubes), self.on_dynakube),
            self._watch(
                api.NAMESPACES, _read_namespace, self.on_namespace, on_list=self.on_namespace_list, metadata_only=True
            ),
            self._watch(api.NODES, _read_changes if startup_taint else _read_node, self.on_node, metadata_only=True),
            self._watch(api.DAEMON_SETS, _reader(api.DAEMON_SETS), self.on_daemon_set),
            self._watch(api.PODS, _read_agent_pod, self.on_agent_pod, label_selector=agents),
            self._watch(
                api.CSI_DRIVERS, _reader(api.CSI_DRIVERS), self.on_driver, field_selector=f"metadata.name={DRIVER_NAME}"
            ),
        )
        if startup_taint:
            pods = self._watch(api.PODS, _read_driver_pod, self.on_driver_pod, label_selector=DRIVER_LABELS)
            self._needed = (*self._needed, pods)
        if injections:
            watch = self._watch(api.INJECTIONS, _read_injection, self.on_injection)
            self._needed = (*self._needed, watch)
        self._others: tuple[Watch[Any], ...] = (
            self._watch(api.LEASES, _read_report, self.on_node_report, label_selector=node_lease.SELECTOR),
            *(
                self._watch(resource, _read_version, self._forward(resource.kind), metadata_only=True)
                for resource in (api.SECRETS, api.CONFIG_MAPS, *((api.CSI_NODES,) if startup_taint else ()))
            ),
        )

    @property
    def all(self) -> Sequence[Watch[Any]]:
        return (*self._needed, *self._others)

    @property
    def problem(self) -> str:
        """The reason why the initial list is not finished, or why objects may be out of date; or ''."""
        missing = [watch for watch in self._needed if not watch.is_synced]
        reason = next((watch.problem for watch in missing if watch.problem), "")
        if reason:
            return f"initial list failed: {reason}"
        return "initial list not finished" if missing else watch_silence.problem(self.all)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self.all:
                group.create_task(watch.run())

    async def wait_until_synced(self) -> None:
        """Return when everything that decisions need has been listed once."""
        for watch in self._needed:
            await watch.wait_until_synced()

    def on_dynakube(self, name: str, manifest: api.Object | None) -> None:
        dynakube = DynaKubeName(name)
        before = self._cache.dynakubes.get(dynakube)
        if manifest is None:
            self._cache.dynakubes.pop(dynakube, None)
        else:
            self._cache.dynakubes[dynakube] = manifest
        if manifest is None or before is None or _owners_fields(before) != _owners_fields(manifest):
            self._listener.dynakube_changed(dynakube)

    def on_injection(self, name: str, manifest: api.Object | None) -> None:
        self.on_dynakube(opentelemetry.PROFILE.name_prefix + name, manifest)

    def on_namespace(self, name: str, now: cache_.Namespace | None) -> None:
        if now is None:
            self._cache.namespaces.pop(name, None)
        else:
            before = self._cache.namespaces.get(name)
            # The operator stores its own writes too, so an event may be older than the cache.
            if before is not None and (now.version < before.version or now == replace(before, version=now.version)):
                return
            self._store_namespace(name, now)
        self._listener.namespace_changed(name)

    def on_namespace_list(self, listed: Mapping[str, cache_.Namespace], *, is_restored: bool) -> None:
        """Take over namespaces that are older than in the cache.

        Versions order the states of one history. After a restore of etcd there is another one. If etcd was restored
        with its version increased, only the objects' own versions are lower.
        """
        known = self._cache.namespaces
        older = [name for name, now in listed.items() if name in known and now.version < known[name].version]
        for name in older:
            self._store_namespace(name, listed[name])
            self._listener.namespace_changed(name)
        if older or is_restored:
            log.warning("cluster restored from an older state", extra=logs.fields(namespaces=len(older)))
            self._listener.cluster_restored()

    def _store_namespace(self, name: str, now: cache_.Namespace) -> None:
        self._cache.namespaces[name] = now
        if name == KUBE_SYSTEM:
            self._cache.cluster_id = now.uid

    def on_node(self, name: str, node: _Node | None) -> None:
        before = self._nodes.pop(name, None)
        if node is None:
            self._cache.nodes.pop(name, None)
        else:
            self._nodes[name], self._cache.nodes[name] = node, node.metadata.labels
        # Nodes report themselves every few minutes, with the same labels and taints.
        if before != node:
            self._listener.object_changed("Node", name)

    def on_driver(self, name: str, manifest: api.Object | None) -> None:
        now = spec.is_driver_installed(manifest)
        if name == DRIVER_NAME and now != self._cache.csi_installed:
            self._cache.csi_installed = now
            self._listener.object_changed("CSIDriver", name)

    def on_daemon_set(self, name: str, manifest: api.Object | None) -> None:
        self._put(self._cache.daemon_sets, "DaemonSet", name, manifest)

    def on_agent_pod(self, name: str, pod: api.Object | None) -> None:
        if self._cache.agent_pods.get(name) != pod:
            self._put(self._cache.agent_pods, "Pod", name, pod)

    def on_driver_pod(self, name: str, pod: api.Object | None) -> None:
        if self._cache.driver_pods.get(name) != pod:
            self._put(self._cache.driver_pods, "DriverPod", name, pod)

    def on_node_report(self, name: str, report: NodeReport | None) -> None:
        if report is None:
            self._cache.node_reports.pop(name, None)
        elif self._cache.node_reports.get(name) != report:
            self._cache.node_reports[name] = report
        else:
            return
        self._listener.object_changed("NodeReport", name)

    def _put(self, objects: dict[str, api.Object], kind: str, name: str, manifest: api.Object | None) -> None:
        if manifest is None:
            objects.pop(name, None)
        else:
            objects[name] = manifest
        self._listener.object_changed(kind, name)

    def _forward(self, kind: str) -> Callable[[str, object], None]:
        return lambda name, _object: self._listener.object_changed(kind, name)

    def _watch(
        self,
        resource: api.Resource,
        read: Callable[[msgspec.Raw], _T],
        on_object: Callable[[str, _T | None], None],
        *,
        on_list: _OnList[_T] | None = None,
        field_selector: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
    ) -> Watch[_T]:
        """A watch that calls `on_object` with each object, and with None for each that is gone.

        `on_list` is called first with each complete list.
        """

        def changed(changes: list_watch.Changes[_T]) -> None:
            if changes.is_list and on_list is not None:
                on_list(watch.objects, is_restored=changes.is_restored)
            gone = dict.fromkeys(changes.deleted)
            for key, found in (*changes.updated.items(), *gone.items()):
                try:
                    on_object(key.rpartition("/")[2], found)
                except Exception:
                    # A mistake of ours about one object must not hide the changes of the others.
                    log.exception("change not handled", extra=logs.fields(kind=resource.kind, object=key))

        collection = list_watch.Collection(
            resource.path(self._namespace),
            field_selector=field_selector,
            label_selector=label_selector,
            metadata_only=metadata_only,
            periods=self._periods,
        )
        retry = backoff.Backoff(self._first_pause, _LONGEST_PAUSE_SECONDS)
        watch = Watch(self._client, collection, read, changed, retry=retry)
        return watch


class _Metadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    uid: str = ""
    labels: dict[str, str] | None = None
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _Change(msgspec.Struct, frozen=True):
    """An entry of `managedFields`: who has written at last, when, and what."""

    manager: str = ""
    time: str = ""
    subresource: str = ""


class _NodeMetadata(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}
    changes: tuple[_Change, ...] = msgspec.field(name="managedFields", default=())


class _Node(msgspec.Struct, frozen=True):
    """The fields of a node whose changes are reported."""

    metadata: _NodeMetadata = _NodeMetadata()


class _PodMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    deletionTimestamp: str = ""


class _PodContainer(msgspec.Struct, frozen=True):
    ports: list[dict[str, Any]] = []


class _PodSpec(msgspec.Struct, frozen=True):
    nodeName: str = ""
    affinity: dict[str, Any] | None = None
    containers: list[_PodContainer] = []


class _PodStatus(msgspec.Struct, frozen=True):
    podIP: str = ""


class _DriverPod(msgspec.Struct, frozen=True):
    """The fields of a driver's pod that show whether it can be asked: a hundredth of it."""

    metadata: _PodMetadata = _PodMetadata()
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _AgentPodMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    labels: dict[str, str] = {}
    creationTimestamp: str = ""
    deletionTimestamp: str = ""


class _AgentPodSpec(msgspec.Struct, frozen=True):
    nodeName: str = ""


class _PodCondition(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: str | None = None


class _ContainerStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    restartCount: int = 0
    state: dict[str, Any] = {}
    lastState: dict[str, Any] = {}


class _AgentPodStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    hostIP: str = ""
    podIP: str = ""
    conditions: list[_PodCondition] | None = None
    initContainerStatuses: list[_ContainerStatus] | None = None
    containerStatuses: list[_ContainerStatus] | None = None


class _AgentPod(msgspec.Struct, frozen=True):
    """The fields of a host agent's pod that `host_agents.rollout` reads: a tenth of it."""

    metadata: _AgentPodMetadata
    spec: _AgentPodSpec = _AgentPodSpec()
    status: _AgentPodStatus = _AgentPodStatus()


def _reader(resource: api.Resource) -> Callable[[msgspec.Raw], api.Object]:
    def read(content: msgspec.Raw) -> api.Object:
        # The items of a list may come without these two.
        manifest: api.Object = {"apiVersion": resource.api_version, "kind": resource.kind}
        manifest |= errors.decode(content, dict[str, Any])
        manifest["metadata"].pop("managedFields", None)
        return manifest

    return read


def _read_injection(content: msgspec.Raw) -> api.Object:
    from oneagent.common.agents.opentelemetry import injection  # Needed only where there are such objects.

    return injection.normalize_stored(_reader(api.INJECTIONS)(content))


def _read_namespace(content: msgspec.Raw) -> cache_.Namespace:
    metadata = errors.decode(content, _Object).metadata
    version = int(metadata.version) if metadata.version.isdecimal() else 0
    return cache_.Namespace(metadata.labels or {}, metadata.deleted is not None, version, metadata.uid)


def _read_report(content: msgspec.Raw) -> NodeReport:
    return node_lease.read(errors.decode(content, dict[str, Any]))[1]


def _read_node(content: msgspec.Raw) -> _Node:
    return _Node(_NodeMetadata(errors.decode(content, _Node).metadata.labels))


def _read_changes(content: msgspec.Raw) -> _Node:
    """A node that differs after each change of its spec, where taints are, and not after kubelet's report.

    A whole node has 20 KB, most of it the names of images, and kubelet reports every few minutes.
    """
    metadata = errors.decode(content, _Node).metadata
    return _Node(_NodeMetadata(metadata.labels, tuple(one for one in metadata.changes if one.subresource != "status")))


def _read_agent_pod(content: msgspec.Raw) -> api.Object:
    pod: api.Object = msgspec.to_builtins(errors.decode(content, _AgentPod))
    return pod


def _read_driver_pod(content: msgspec.Raw) -> api.Object:
    pod: api.Object = msgspec.to_builtins(errors.decode(content, _DriverPod))
    return pod


def _read_version(content: msgspec.Raw) -> str:
    return errors.decode(content, _Object).metadata.version


def _owners_fields(manifest: api.Object) -> tuple[object, ...]:
    """The fields of a DynaKube that its owner writes: our own writes of the status are no change."""
    metadata = manifest["metadata"]
    keys = ("uid", "annotations", "labels", "deletionTimestamp", "finalizers")
    # Not by generation: after a restore of etcd two specs may have the same.
    parts = ("spec", "telemetry", "problem")
    return *(manifest.get(part) for part in parts), *(metadata.get(key) for key in keys)


typed_json.prepare(_Object, _Node, _DriverPod, _AgentPod)
