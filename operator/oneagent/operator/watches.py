"""kopf's watches: they fill `Cache` and tell who is concerned by a change.

kopf watches the API server, and takes up a watch that breaks off with a list. What went while it was broken off
is in no event, so everything is listed again from time to time, and what is no longer there is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import kopf

from oneagent.common import logs
from oneagent.common.identifiers import DRIVER_NAME, DynaKubeName
from oneagent.operator import api
from oneagent.operator import cache as observed_
from oneagent.operator.api import FIELD_MANAGER
from oneagent.operator.cache import KUBE_SYSTEM, Cache
from oneagent.operator.host_agents import csi

log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 300.0
AGENT_LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_REMEMBERED: Final = 1000
_STOP_SECONDS: Final = 5.0


class WatchesStoppedError(Exception):
    """kopf has ended by itself: it takes SIGTERM and SIGINT for its own as soon as it runs."""


class Listener(Protocol):
    """Whom changes concern; called in the event loop's thread, after `Cache` has changed."""

    def dynakube_changed(self, name: DynaKubeName) -> None: ...
    def namespace_changed(self, name: str) -> None: ...
    def object_changed(self, kind: str, name: str) -> None:
        """A Secret, ConfigMap, DaemonSet or host agent's Pod of the own namespace, a Node, CSINode or CSIDriver."""
        ...


class Watches:
    def __init__(
        self,
        server: api.Api,
        namespace: str,
        dynakubes: api.Resource,
        observed: Cache,
        listener: Listener,
        *,
        csi_nodes: bool = False,
    ) -> None:
        """`csi_nodes` tells whether changes of CSINodes concern anybody: there are as many as there are nodes."""
        self._api, self._namespace, self._dynakubes = server, namespace, dynakubes
        self._observed, self._listener, self._csi_nodes = observed, listener, csi_nodes
        self._node_versions: dict[str, int] = {}
        self._deleted: dict[str, None] = {}
        """The UIDs of what was deleted last: a list that was asked for earlier may still have them."""

    async def list_all(self) -> None:
        """Fill `Cache` with everything that there is, and drop what is not; `ApiError`."""
        await self._list(self._dynakubes, self._namespace, list(self._observed.dynakubes), self.see_dynakube)
        await self._list(api.NAMESPACES, "", list(self._observed.namespaces), self.see_namespace)
        await self._list(api.NODES, "", list(self._observed.nodes), self.see_node)
        await self._list(api.DAEMON_SETS, self._namespace, list(self._observed.daemon_sets), self.see_daemon_set)
        await self._list(api.PODS, self._namespace, list(self._observed.agent_pods), self.see_pod, _selector())
        driver = await self._api.find(api.CSI_DRIVERS, DRIVER_NAME)
        self.see_driver(DRIVER_NAME, driver or {}, driver is None)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._resync())

    async def _watch(self) -> None:
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=self._settings(),
            namespaces=[self._namespace],
            clusterwide=False,
            standalone=True,
            # Made up by kopf, it is the name of the user, and in a container there is none.
            identity=FIELD_MANAGER,  # type: ignore[arg-type]
        )
        # Not by `kopf.operator`: that takes every task of the process for its own, and at the end waits for them.
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise WatchesStoppedError
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self.list_all()
            except api.ApiError as error:
                log.warning("not listed again", extra=logs.facts(reason=error))

    async def _list(
        self,
        resource: api.Resource,
        namespace: str,
        before: list[Any],
        see: Callable[[str, api.Object, bool], None],
        labels: str = "",
    ) -> None:
        gone = {name: self._seen(resource, name) for name in before}
        async for item in self._api.list(resource, namespace, labels=labels):
            # Of the items of a list the API server leaves these out.
            manifest = {"apiVersion": resource.api_version, "kind": resource.kind, **item}
            name = manifest["metadata"]["name"]
            gone.pop(name, None)
            if manifest["metadata"].get("uid") not in self._deleted:
                see(name, manifest, False)
        for name, version in gone.items():
            # One that came while the list was on its way is in no page of it.
            if self._seen(resource, name) == version:
                see(name, {}, True)

    def _seen(self, resource: api.Resource, name: str) -> int:
        """The version of an object as it is known now."""
        if resource.kind == "Namespace":
            namespace = self._observed.namespaces.get(name)
            return namespace.version if namespace else 0
        if resource.kind == "Node":
            return self._node_versions.get(name, 0)
        kept: dict[str, Mapping[str, api.Object]] = {
            "DynaKube": {str(key): value for key, value in self._observed.dynakubes.items()},
            "DaemonSet": self._observed.daemon_sets,
            "Pod": self._observed.agent_pods,
        }
        return observed_.version(kept.get(resource.kind, {}).get(name, {}))

    def see_dynakube(self, name: str, manifest: api.Object, gone: bool) -> None:
        dynakube = DynaKubeName(name)
        known = self._observed.dynakubes.get(dynakube)
        if gone and manifest and known is not None and observed_.version(manifest) < observed_.version(known):
            return  # The end of an earlier one of this name.
        if gone:
            self._observed.dynakubes.pop(dynakube, None)
        elif known is not None and observed_.version(manifest) < observed_.version(known):  # An event that comes late.
            return
        else:
            self._observed.dynakubes[dynakube] = manifest
        if gone or known is None or _wanted(known) != _wanted(manifest):
            self._listener.dynakube_changed(dynakube)

    def see_namespace(self, name: str, manifest: api.Object, gone: bool) -> None:
        if gone:
            self._observed.namespaces.pop(name, None)
        else:
            before, now = self._observed.namespaces.get(name), observed_.namespace(manifest)
            if before is not None and (now.version < before.version or now == replace(before, version=now.version)):
                return
            self._observed.namespaces[name] = now
            if name == KUBE_SYSTEM:
                self._observed.cluster_id = str(manifest["metadata"].get("uid", ""))
        self._listener.namespace_changed(name)

    def see_node(self, name: str, manifest: api.Object, gone: bool) -> None:
        before, version = self._observed.nodes.get(name), observed_.version(manifest)
        if manifest and version < self._node_versions.get(name, 0):
            return  # An event that comes late, or the end of an earlier one of this name.
        now = None if gone else dict(manifest["metadata"].get("labels") or {})
        if now is None:
            self._observed.nodes.pop(name, None)
            self._node_versions.pop(name, None)
        else:
            self._observed.nodes[name], self._node_versions[name] = now, version
        # Nodes report themselves every few minutes, with nothing in it for us.
        if before != now:
            self._listener.object_changed("Node", name)

    def see_driver(self, name: str, manifest: api.Object, gone: bool) -> None:
        now = not gone and csi.is_installed(manifest)
        if name == DRIVER_NAME and now != self._observed.csi_installed:
            self._observed.csi_installed = now
            self._listener.object_changed("CSIDriver", name)

    def see_daemon_set(self, name: str, manifest: api.Object, gone: bool) -> None:
        self._keep(self._observed.daemon_sets, "DaemonSet", name, manifest, gone)

    def see_pod(self, name: str, manifest: api.Object, gone: bool) -> None:
        self._keep(self._observed.agent_pods, "Pod", name, manifest, gone)

    def _keep(self, kept: dict[str, api.Object], kind: str, name: str, manifest: api.Object, gone: bool) -> None:
        known = kept.get(name)
        if manifest and known is not None and observed_.version(manifest) < observed_.version(known):
            return
        if gone:
            kept.pop(name, None)
        else:
            manifest["metadata"].pop("managedFields", None)
            kept[name] = manifest
        self._listener.object_changed(kind, name)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        self._on_event(registry, self._dynakubes, self.see_dynakube)
        self._on_event(registry, api.NAMESPACES, self.see_namespace)
        self._on_event(registry, api.NODES, self.see_node)
        self._on_event(registry, api.DAEMON_SETS, self.see_daemon_set)
        self._on_event(registry, api.PODS, self.see_pod, AGENT_LABELS)
        self._on_event(registry, api.CSI_DRIVERS, self.see_driver)
        for resource in (api.SECRETS, api.CONFIG_MAPS, *((api.CSI_NODES,) if self._csi_nodes else ())):
            self._on_event(registry, resource, self._tell(resource.kind))
        return registry

    def _on_event(
        self,
        registry: kopf.OperatorRegistry,
        resource: api.Resource,
        see: Callable[[str, api.Object, bool], None],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        group, _, version = resource.api_version.rpartition("/")

        # Async, though it waits for nothing: kopf runs others in threads, and `Cache` belongs to the event loop.
        async def handler(*, event: Any, name: str, **_: Any) -> None:
            manifest, gone = dict(event["object"]), event["type"] == "DELETED"
            if gone:
                self._deleted[str(manifest["metadata"].get("uid"))] = None
                while len(self._deleted) > _REMEMBERED:
                    self._deleted.pop(next(iter(self._deleted)))
            see(name, manifest, gone)

        kopf.on.event(group, version, resource.plural, registry=registry, labels=labels)(handler)

    def _tell(self, kind: str) -> Callable[[str, api.Object, bool], None]:
        return lambda name, _manifest, _gone: self._listener.object_changed(kind, name)

    @staticmethod
    def _settings() -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        # Looking for new kinds of resources and namespaces would need rights that nothing else here needs.
        settings.scanning.disabled = True
        settings.watching.chunk_size = api.PAGE_SIZE
        settings.queueing.exit_timeout = 1.0
        settings.process.ultimate_exiting_timeout = None
        return settings


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    inside = kopf.login_with_service_account(**kwargs)
    if inside is None:
        return kopf.login_with_kubeconfig(**kwargs)
    # By the address that kubelet gives, since a cluster's DNS may be what is being repaired.
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return replace(inside, server=f"https://{f'[{host}]' if ':' in host else host}:{port}") if host else inside


def _selector() -> str:
    return ",".join(f"{key}={value}" for key, value in AGENT_LABELS.items())


def _wanted(manifest: api.Object) -> tuple[object, ...]:
    """What of a DynaKube is its owner's word: our own writing of the status is no news."""
    metadata = manifest["metadata"]
    keys = ("uid", "generation", "annotations", "labels", "deletionTimestamp", "finalizers")
    return tuple(metadata.get(key) for key in keys)
