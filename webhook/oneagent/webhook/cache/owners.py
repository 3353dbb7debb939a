"""Workload of a pod: the object at the top of its chain of controllers.

Three kinds stand between a pod and its workload. Two are watched: a ReplicaSet, whose controller is a Deployment, an
Argo Rollout or similar, and a Job, whose controller is a CronJob or a workflow. A ReplicationController, which a
DeploymentConfig of OpenShift may control, is rare and read on demand. Any other controller is the workload itself. A
pod without a controller is its own workload, by the name that its copies share.

Of a ReplicaSet or Job only its workload is stored, and the ReplicaSets of one Deployment share it. One that was
created a moment ago is read. If that fails, the workload is the pod's direct controller, which is better than none.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from oneagent.common import backoff, typed_json
from oneagent.common.kubernetes import errors, fields, list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from oneagent.webhook.cache import fallback_lookups
from oneagent.webhook.injection.inputs import Object, Workload

_ACCEPT: Final = list_watch.Collection("", metadata_only=True).accept()

_shared = functools.lru_cache(4096)(Workload)
"""One object for equal workloads. Lists are sorted by name, so a small cache is enough."""


class _Reference(msgspec.Struct, frozen=True):
    kind: str
    name: str
    controller: bool | None = None


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    owners: list[_Reference] | None = msgspec.field(name="ownerReferences", default=None)


class _Owned(msgspec.Struct, frozen=True):
    metadata: _Metadata


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of controller that may have a controller."""

    kind: str
    group: str
    version: str
    plural: str

    def list_path(self) -> str:
        return f"{self._base}/{self.plural}"

    def path(self, key: str) -> str:
        namespace, _, name = key.partition("/")
        return f"{self._base}/namespaces/{namespace}/{self.plural}/{name}"

    @property
    def _base(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def read(self, content: msgspec.Raw | bytes) -> Workload:
        """Return the workload of an object of this kind; the object itself if it has no controller."""
        metadata = errors.decode(content, _Owned).metadata
        for owner in metadata.owners or ():
            if owner.controller:
                return _shared(sys.intern(owner.kind), owner.name)
        return Workload(self.kind, metadata.name)


class ControllerLookup:
    """Objects of one such kind, read on demand."""

    def __init__(self, server: api.Api, kind: _Kind) -> None:
        self._api, self._kind = server, kind
        self._lookups = fallback_lookups.FallbackLookups(self._fetch)

    async def workload(self, namespace: str, name: str) -> Workload | None:
        """Return None if the object cannot be read."""
        # The name is that of an unchecked reference, and becomes part of a path.
        if not fields.is_dns_name(name):
            return None
        return await self._find(f"{namespace}/{name}")

    async def _find(self, key: str) -> Workload | None:
        return await self._lookups.get(key)

    async def _fetch(self, key: str) -> Workload:
        content = await self._api.read(self._kind.path(key), accept=_ACCEPT, seconds=fallback_lookups.WAIT_SECONDS)
        return self._kind.read(content)


class WatchedControllers(ControllerLookup):
    """Objects of one such kind, watched as well."""

    def __init__(self, server: api.Api, kind: _Kind, first_pause: float, periods: list_watch.Periods) -> None:
        super().__init__(server, kind)
        collection = list_watch.Collection(kind.list_path(), metadata_only=True, periods=periods)
        retry = backoff.Backoff(first_pause, list_watch.LONGEST_PAUSE)
        self.watch = Watch(server, collection, kind.read, retry=retry)

    async def _find(self, key: str) -> Workload | None:
        return self.watch.objects.get(key) or await super()._find(key)


class Workloads:
    def __init__(
        self,
        server: api.Api,
        *,
        first_pause: float = list_watch.FIRST_PAUSE,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        kinds = (_Kind("ReplicaSet", "apps", "v1", "replicasets"), _Kind("Job", "batch", "v1", "jobs"))
        self.watched = {
            (kind.group, kind.kind): WatchedControllers(server, kind, first_pause, periods) for kind in kinds
        }
        rare = _Kind("ReplicationController", "", "v1", "replicationcontrollers")
        self._lookups_by_kind: dict[tuple[str, str], ControllerLookup] = {
            **self.watched,
            (rare.group, rare.kind): ControllerLookup(server, rare),
        }

    @property
    def watches(self) -> Sequence[Watch[Any]]:
        return [watched.watch for watched in self.watched.values()]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for watched in self.watched.values():
                group.create_task(watched.watch.run())

    async def find(self, namespace: str, pod: Object) -> Workload:
        metadata = pod.get("metadata") or {}
        for owner in _controllers(metadata):
            kind, name = owner.get("kind", ""), owner.get("name", "")
            group = owner.get("apiVersion", "").rpartition("/")[0]
            lookup = self._lookups_by_kind.get((group, kind))
            workload = await lookup.workload(namespace, name) if lookup is not None else None
            return workload or Workload(kind, name)
        return Workload("Pod", metadata.get("name") or metadata.get("generateName", "").removesuffix("-"))


def _controllers(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the controller, if there is one."""
    return (owner for owner in metadata.get("ownerReferences") or () if owner.get("controller"))


typed_json.prepare(_Owned)
