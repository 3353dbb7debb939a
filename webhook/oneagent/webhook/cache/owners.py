"""What a pod belongs to at the top of its chain of controllers.

Three kinds stand between a pod and what people call its workload. Two are held in memory: a ReplicaSet, whose
controller is a Deployment, an Argo Rollout or the like, and a Job, whose controller is a CronJob or a workflow. A
ReplicationController, which a DeploymentConfig of OpenShift may control, is rare and asked for. Any other controller
is the top itself. A pod without one is its own workload, by the name its copies share.

Of a ReplicaSet or Job only its workload is kept, and the ReplicaSets of one Deployment share it. One that was
created a moment ago is asked for. If it cannot be had in time, the workload is the pod's direct controller: that
is true, if less than the whole truth, and better than none.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, fields, list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from oneagent.webhook.cache import fallback_lookups
from oneagent.webhook.injection.inputs import Object, Workload

_ACCEPT: Final = list_watch.Collection("", metadata_only=True).accept()

_shared = functools.lru_cache(4096)(Workload)
"""One object for equal workloads. Lists come in the order of names, so few need to be remembered for it."""


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
        """The workload that an object of this kind belongs to; the object itself if it has no controller."""
        metadata = errors.decode(content, _Owned).metadata
        for owner in metadata.owners or ():
            if owner.controller:
                return _shared(sys.intern(owner.kind), owner.name)
        return Workload(self.kind, metadata.name)


class AskedFor:
    """The objects of one such kind."""

    def __init__(self, server: api.Api, kind: _Kind) -> None:
        self._api, self._kind = server, kind
        self._lookups = fallback_lookups.Lookups(self._fetch)

    async def workload(self, namespace: str, name: str) -> Workload | None:
        """None if it is not to be had."""
        # The name is that of a reference that nobody has checked yet, and is to become part of a path.
        if not fields.is_dns_name(name):
            return None
        return await self._find(f"{namespace}/{name}")

    async def _find(self, key: str) -> Workload | None:
        return await self._lookups.get(key)

    async def _fetch(self, key: str) -> Workload:
        content = await self._api.read(self._kind.path(key), accept=_ACCEPT, seconds=fallback_lookups.WAIT_SECONDS)
        return self._kind.read(content)


class Followed(AskedFor):
    """Those that are held in memory, too."""

    def __init__(self, server: api.Api, kind: _Kind, first_pause: float) -> None:
        super().__init__(server, kind)
        collection = list_watch.Collection(kind.list_path(), metadata_only=True)
        retry = backoff.Backoff(first_pause, list_watch.LONGEST_PAUSE)
        self.watch = Watch(server, collection, kind.read, retry=retry)

    async def _find(self, key: str) -> Workload | None:
        return self.watch.objects.get(key) or await super()._find(key)


class Workloads:
    def __init__(self, server: api.Api, *, first_pause: float = list_watch.FIRST_PAUSE) -> None:
        kinds = (_Kind("ReplicaSet", "apps", "v1", "replicasets"), _Kind("Job", "batch", "v1", "jobs"))
        self.followed = {(kind.group, kind.kind): Followed(server, kind, first_pause) for kind in kinds}
        rare = _Kind("ReplicationController", "", "v1", "replicationcontrollers")
        self._known: dict[tuple[str, str], AskedFor] = {
            **self.followed,
            (rare.group, rare.kind): AskedFor(server, rare),
        }

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for followed in self.followed.values():
                group.create_task(followed.watch.run())

    async def of(self, namespace: str, pod: Object) -> Workload:
        metadata = pod.get("metadata") or {}
        for owner in _controllers(metadata):
            kind, name = owner.get("kind", ""), owner.get("name", "")
            group = owner.get("apiVersion", "").rpartition("/")[0]
            known = self._known.get((group, kind))
            above = await known.workload(namespace, name) if known is not None else None
            return above or Workload(kind, name)
        return Workload("Pod", metadata.get("name") or metadata.get("generateName", "").removesuffix("-"))


def _controllers(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """None or one."""
    return (owner for owner in metadata.get("ownerReferences") or () if owner.get("controller"))
