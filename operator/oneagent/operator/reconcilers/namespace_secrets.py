"""A Secret of one name in each namespace of a DynaKube: written where it differs, removed when the namespace leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes.errors import ApiError, NotFoundError
from oneagent.operator import api
from oneagent.operator.namespace_mapper import NamespaceMapper

LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_MAX_CONCURRENT_WRITES: Final = 16


class NamespaceSecrets:
    """The Secrets of one name, of all DynaKubes."""

    def __init__(self, name: str, kind: str, mapper: NamespaceMapper) -> None:
        """`kind` is the Secrets' type."""
        self._name, self._kind, self._mapper = name, kind, mapper
        self._written: dict[str, str] = {}
        """By namespace: DynaKube and digest of its Secret. Empty after a start, so that all are written once.

        `remove_secret` deletes the entry of a namespace that the DynaKube loses.
        """

    def forget_written(self) -> None:
        """Write all Secrets once more: etcd was restored from a backup."""
        self._written.clear()

    async def write(self, server: api.Api, dynakube: DynaKubeName, data: Mapping[str, str]) -> tuple[int, list[str]]:
        """Write what differs, to the namespaces that a DynaKube owns; return their number and the problems.

        `data` has the values in base64.
        """
        # Only where the label is set already: clean-up finds the Secrets by the label.
        names = self._mapper.namespaces_of(dynakube)
        owned = {namespace for namespace in names if self._mapper.owns(dynakube, namespace)}
        await self._remove(server, dynakube, [each for each in self._written_for(dynakube) if each not in owned])
        content = json.dumps(data, sort_keys=True).encode()
        digest = f"{dynakube}/{hashlib.sha256(content).hexdigest()}"
        outdated = [namespace for namespace in sorted(owned) if self._written.get(namespace) != digest]
        return len(owned), await self._write(server, dynakube, outdated, data, digest)

    async def remove(self, server: api.Api, dynakube: DynaKubeName, *, had_secrets: bool) -> None:
        """Remove the Secrets of a DynaKube. `had_secrets`: it may have some of an earlier operator."""
        labelled = self._mapper.namespaces_of(dynakube) if had_secrets else ()
        await self._remove(server, dynakube, {*self._written_for(dynakube), *labelled})

    async def remove_secret(self, server: api.Api, namespace: str) -> None:
        """Delete the Secret of a namespace; the caller holds its lock. `ApiError`."""
        await server.delete(api.SECRETS, self._name, namespace)
        self._written.pop(namespace, None)

    def _written_for(self, dynakube: DynaKubeName) -> list[str]:
        return [namespace for namespace, owner in self._written.items() if owner.startswith(f"{dynakube}/")]

    async def _write(
        self, server: api.Api, dynakube: DynaKubeName, namespaces: list[str], data: Mapping[str, str], digest: str
    ) -> list[str]:
        slots = asyncio.Semaphore(_MAX_CONCURRENT_WRITES)
        problems = []

        async def write(namespace: str) -> None:
            try:
                async with slots, self._mapper.locks[namespace]:
                    # Another DynaKube may own it by now.
                    if self._mapper.owns(dynakube, namespace):
                        await server.apply(api.SECRETS, self._secret(namespace, data))
                        self._written[namespace] = digest
            except NotFoundError:
                pass  # The namespace was deleted.
            except ApiError as error:
                problems.append(str(error))

        await asyncio.gather(*(write(namespace) for namespace in namespaces))
        return problems

    async def _remove(self, server: api.Api, dynakube: DynaKubeName, namespaces: Iterable[str]) -> None:
        """Delete a DynaKube's Secrets from namespaces, except where another DynaKube has written meanwhile."""
        slots = asyncio.Semaphore(_MAX_CONCURRENT_WRITES)

        async def remove(namespace: str) -> None:
            async with slots, self._mapper.locks[namespace]:
                written = self._written.get(namespace, "")
                if written.startswith(f"{dynakube}/") or (
                    not written and self._mapper.is_labelled(namespace, dynakube)
                ):
                    await self.remove_secret(server, namespace)

        await asyncio.gather(*(remove(namespace) for namespace in namespaces))

    def _secret(self, namespace: str, data: Mapping[str, str]) -> dict[str, Any]:
        metadata = {"name": self._name, "namespace": namespace, "labels": LABELS}
        return {"metadata": metadata, "type": self._kind, "data": dict(data)}
