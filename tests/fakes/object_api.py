"""The part of an API server that `api.Api`'s callers see: objects with versions, merge patches, conflicts.

Every object that is handed out is a copy. `before` lets a test do something just before a call is answered, and
raise what the call is to be answered with.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from oneagent.common.kubernetes.errors import ConflictError, NotFoundError
from oneagent.operator import api

Key = tuple[str, str, str]
"""Kind, namespace, name."""


class Objects:
    def __init__(self) -> None:
        self.stored: dict[Key, api.Object] = {}
        self.calls: list[tuple[str, str, str]] = []
        """Verb, kind with the subresource, name."""
        self.before: Callable[[str, str, str], None] = lambda verb, kind, name: None
        self._version = 100

    def put(self, kind: str, obj: Mapping[str, Any]) -> api.Object:
        """Create or overwrite, as somebody else would."""
        stored = copy.deepcopy(dict(obj))
        metadata = stored["metadata"]
        metadata["resourceVersion"] = self._next()
        metadata.setdefault("uid", f"uid-{metadata['name']}")
        self.stored[kind, metadata.get("namespace", ""), metadata["name"]] = stored
        return stored

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        del self.stored[kind, namespace, name]

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None:
        self._call("find", resource.kind, name)
        return copy.deepcopy(self.stored.get((resource.kind, namespace, name)))

    async def list(self, resource: api.Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[api.Object]:
        self._call("list", resource.kind, "")
        selector = dict(pair.split("=") for pair in labels.split(",") if pair)
        for (kind, where, _), stored in sorted(self.stored.items()):
            own_labels = stored["metadata"].get("labels") or {}
            if kind == resource.kind and namespace in ("", where) and selector.items() <= own_labels.items():
                # Without kind and version, as in a list of the real one.
                yield copy.deepcopy({key: stored[key] for key in stored if key not in ("kind", "apiVersion")})

    async def read(self, path: str, parameters: Mapping[str, str] | None = None, *, accept: str) -> bytes:
        """The list of a collection, for a watch."""
        resource, namespace = collection(path)
        items = [item async for item in self.list(resource, namespace)]
        return json.dumps({"metadata": {"resourceVersion": str(self._version)}, "items": items}).encode()

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A watch without events."""
        yield _nothing()

    async def replace(self, resource: api.Resource, obj: Mapping[str, Any]) -> api.Object:
        metadata = obj["metadata"]
        stored = self._for_change("replace", resource.kind, metadata["name"], metadata.get("namespace", ""), obj)
        assert (obj["apiVersion"], obj["kind"]) == (resource.api_version, resource.kind)
        stored.clear()
        stored.update(copy.deepcopy(dict(obj)))
        stored["metadata"]["resourceVersion"] = self._next()
        return copy.deepcopy(stored)

    async def apply(self, resource: api.Resource, obj: Mapping[str, Any], *, subresource: str = "") -> api.Object:
        """Create or overwrite; the real one keeps what other managers have set."""
        self._call("apply", f"{resource.kind}/{subresource}" if subresource else resource.kind, obj["metadata"]["name"])
        return copy.deepcopy(self.put(resource.kind, obj))

    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None:
        self._call("delete", resource.kind, name)
        self.stored.pop((resource.kind, namespace, name), None)

    async def merge(
        self,
        resource: api.Resource,
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> api.Object:
        kind_name = f"{resource.kind}/{subresource}" if subresource else resource.kind
        stored = self._for_change("merge", kind_name, name, namespace, patch)
        _merge(stored, patch)
        stored["metadata"]["resourceVersion"] = self._next()
        return copy.deepcopy(stored)

    def _for_change(self, verb: str, kind_name: str, name: str, namespace: str, given: Mapping[str, Any]) -> api.Object:
        self._call(verb, kind_name, name)
        stored = self.stored.get((kind_name.partition("/")[0], namespace, name))
        if stored is None:
            raise NotFoundError(name)
        version = given.get("metadata", {}).get("resourceVersion")
        if version is not None and version != stored["metadata"]["resourceVersion"]:
            raise ConflictError(name)
        return stored

    def _call(self, verb: str, kind_name: str, name: str) -> None:
        self.calls.append((verb, kind_name, name))
        self.before(verb, kind_name, name)

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def collection(path: str) -> tuple[api.Resource, str]:
    known = [value for value in vars(api).values() if isinstance(value, api.Resource)]
    known.append(api.dynakubes(path.split("/")[3]))
    root, _, plural = path.rpartition("/")
    namespace = root.partition("/namespaces/")[2]
    return next(resource for resource in known if resource.plural == plural), namespace


async def _nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def _merge(into: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = copy.deepcopy(value)
