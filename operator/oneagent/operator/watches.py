"""Watches of the API server: they fill `Cache` and report changes to a `Listener`.

Every collection is listed and watched on its own. A list after a broken watch reports deletions as well, so nothing
has to be listed again from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import msgspec

from oneagent.common import backoff, logs, typed_json
from oneagent.common.identifiers import DRIVER_NAME, DynaKubeName
from oneagent.common.kubernetes import errors, list_watch, watch_silence
from oneagent.common.kubernetes.watch import Client, Watch
from oneagent.operator import api
from oneagent.operator import cache as cache_
from oneagent.operator.cache import KUBE_SYSTEM, Cache
from oneagent.operator.host_agents import spec

log = logging.getLogger(__name__)

AGENT_LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_LONGEST_PAUSE_SECONDS: Final = 5.0
"""One operator alone is no crowd."""

_T = TypeVar("_T")


class Listener(Protocol):
    """Receiver of changes; called in the event loop's thread, after `Cache` has changed."""

    def dynakube_changed(self, name: DynaKubeName) -> None: ...
    def namespace_changed(self, name: str) -> None: ...
    def object_changed(self, kind: str, name: str) -> None:
        """A Secret, ConfigMap, DaemonSet or host agent's Pod of the own namespace, a Node, CSINode or CSIDriver."""
        ...


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
        first_pause: float = list_watch.FIRST_PAUSE,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        """`startup_taint`: report changes of nodes' taints and of CSINodes as well."""
        self._client, self._namespace = client, namespace
        self._first_pause, self._periods = first_pause, periods
        self._cache, self._listener = cache, listener
        self._nodes: dict[str, _Node] = {}
        agents = ",".join(f"{key}={value}" for key, value in AGENT_LABELS.items())
        self._needed: tuple[Watch[Any], ...] = (
            self._watch(dynakubes, _reader(dynakubes), self.on_dynakube),
            self._watch(api.NAMESPACES, _read_namespace, self.on_namespace, metadata_only=True),
            self._watch(api.NODES, _read_node, self.on_node, metadata_only=not startup_taint),
            self._watch(api.DAEMON_SETS, _reader(api.DAEMON_SETS), self.on_daemon_set),
            self._watch(api.PODS, _reader(api.PODS), self.on_pod, label_selector=agents),
            self._watch(
                api.CSI_DRIVERS, _reader(api.CSI_DRIVERS), self.on_driver, field_selector=f"metadata.name={DRIVER_NAME}"
            ),
        )
        self._others: tuple[Watch[Any], ...] = tuple(
            self._watch(resource, _read_version, self._forward(resource.kind), metadata_only=True)
            for resource in (api.SECRETS, api.CONFIG_MAPS, *((api.CSI_NODES,) if startup_taint else ()))
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

    def on_namespace(self, name: str, now: cache_.Namespace | None) -> None:
        if now is None:
            self._cache.namespaces.pop(name, None)
        else:
            before = self._cache.namespaces.get(name)
            # The operator stores its own writes too, so an event may be older than the cache.
            if before is not None and (now.version < before.version or now == replace(before, version=now.version)):
                return
            self._cache.namespaces[name] = now
            if name == KUBE_SYSTEM:
                self._cache.cluster_id = now.uid
        self._listener.namespace_changed(name)

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

    def on_pod(self, name: str, manifest: api.Object | None) -> None:
        self._put(self._cache.agent_pods, "Pod", name, manifest)

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
        field_selector: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
    ) -> Watch[_T]:
        """A watch that calls `on_object` with each object, and with None for each that is gone."""

        def changed(changes: list_watch.Changes[_T]) -> None:
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
        return Watch(self._client, collection, read, changed, retry=retry)


class _Metadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    uid: str = ""
    labels: dict[str, str] | None = None
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _NodeMetadata(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}


class _NodeSpec(msgspec.Struct, frozen=True):
    taints: tuple[_Taint, ...] = ()


class _Taint(msgspec.Struct, frozen=True):
    key: str
    effect: str


class _Node(msgspec.Struct, frozen=True):
    """The fields of a node whose changes are reported."""

    metadata: _NodeMetadata = _NodeMetadata()
    spec: _NodeSpec = _NodeSpec()


def _reader(resource: api.Resource) -> Callable[[msgspec.Raw], api.Object]:
    def read(content: msgspec.Raw) -> api.Object:
        # The items of a list may come without these two.
        manifest: api.Object = {"apiVersion": resource.api_version, "kind": resource.kind}
        manifest |= errors.decode(content, dict[str, Any])
        manifest["metadata"].pop("managedFields", None)
        return manifest

    return read


def _read_namespace(content: msgspec.Raw) -> cache_.Namespace:
    metadata = errors.decode(content, _Object).metadata
    version = int(metadata.version) if metadata.version.isdecimal() else 0
    return cache_.Namespace(metadata.labels or {}, metadata.deleted is not None, version, metadata.uid)


def _read_node(content: msgspec.Raw) -> _Node:
    return errors.decode(content, _Node)


def _read_version(content: msgspec.Raw) -> str:
    return errors.decode(content, _Object).metadata.version


def _owners_fields(manifest: api.Object) -> tuple[object, ...]:
    """The fields of a DynaKube that its owner writes: our own writes of the status are no change."""
    metadata = manifest["metadata"]
    keys = ("uid", "generation", "annotations", "labels", "deletionTimestamp", "finalizers")
    return tuple(metadata.get(key) for key in keys)


typed_json.prepare(_Object, _Node)
