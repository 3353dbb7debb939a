"""Objects of one kind, followed by list and watch and held in memory.

A list gives the whole set and its version; a watch from that version gives every later change. A stream that was
merely cut goes on from the last version seen (bookmarks move it on while nothing changes), so an API server's
restart costs a reconnect, not a list of the whole cluster. After 410, or with every third attempt in a row that
brings nothing, the set is listed anew, which also tells what was deleted meanwhile. Until the new list is complete
the old set is answered from: old knowledge is better than none.

Between attempts there is always a pause, longer with each failure. An attempt that brought an
event or stood for a while resets it.

What is kept of an object is the business of `read`, which decodes its JSON (`api.decode`) into as little as it
needs: fields that are not named are skipped, never built. Where only metadata is needed the API server is asked for
no more. An object that `read` cannot take is left out with a warning, so that it does not blind us to the others.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from oneagent.common import backoff, logs
from oneagent.common.kubernetes import list_watch
from oneagent.webhook import api

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 500
WATCH_SECONDS: Final = 300.0

_ONLY_METADATA: Final = "application/json;as={shape};g=meta.k8s.io;v=v1,application/json"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, and which of them."""

    path: str
    """Of the list, as `/api/v1/namespaces`"""
    fields: str = ""
    """A field selector, as `metadata.name=example`"""
    metadata_only: bool = False
    watch_seconds: float = WATCH_SECONDS
    """After up to a third more than this the server ends a watch"""

    def accept(self, shape: str) -> str:
        """The media types to ask for; `shape` is what an answer would be with metadata only."""
        return _ONLY_METADATA.format(shape=shape) if self.metadata_only else "application/json"


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    token: str = msgspec.field(name="continue", default="")


class _Head(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _Page(_Head, frozen=True):
    items: list[msgspec.Raw] | None = None


class _Change(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class Watch(Generic[_T]):
    """`found` has what `read` made of each object, by `namespace/name`, or by name for those in no namespace."""

    def __init__(
        self,
        server: api.Api,
        resource: Resource,
        read: Callable[[msgspec.Raw], _T],
        changed: Callable[[], None] = lambda: None,
        *,
        first_pause: float = 0.5,
        page_size: int = PAGE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is called after each list and each event about an object."""
        self.found: dict[str, _T] = {}
        self.resource = resource
        self._api, self._read, self._changed, self._clock = server, read, changed, clock
        self._page_size = page_size
        self._backoff = backoff.Backoff(first_pause, list_watch.LONGEST_PAUSE)
        self._version = ""
        self._listed = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether the set was known once."""
        return self._listed.is_set()

    async def listed(self) -> None:
        await self._listed.wait()

    async def run(self) -> None:
        """Until cancelled; no error ends it."""
        while True:
            retry_after = 0.0
            try:
                await self._attempt()
            except api.ApiError as error:
                retry_after = self._failed(error)
            except Exception:
                # A mistake of ours about one object must not end what all pods depend on.
                log.exception("objects cannot be followed", extra=logs.facts(path=self.resource.path))
                self._version = ""
            await asyncio.sleep(self._backoff.next(retry_after))

    async def _attempt(self) -> None:
        began = self._clock()
        if not self._version:
            self.found, self._version = await self._list()
            self._listed.set()
            self._changed()
        seconds = self.resource.watch_seconds * random.uniform(1.0, 4 / 3)  # spreads load, guards nothing
        query = self._query(
            watch="true", allowWatchBookmarks="true", resourceVersion=self._version, timeoutSeconds=f"{seconds:.0f}"
        )
        accept = self.resource.accept("PartialObjectMetadata")
        try:
            async with self._api.stream(self.resource.path, query, accept=accept, seconds=seconds) as stream:
                lines = list_watch.Lines()
                async for chunk in stream:
                    for line in lines.add(chunk):
                        if self._take(line):
                            self._backoff.reset()
                            self._changed()
        finally:
            if self._clock() - began >= list_watch.STOOD_SECONDS:
                self._backoff.reset()

    def _failed(self, error: api.ApiError) -> float:
        """Forget the version if going on from it makes no sense; how long the server wants us to wait."""
        attempt = self._backoff.failures + 1
        facts = logs.facts(path=self.resource.path, reason=error, attempt=attempt)
        if isinstance(error, api.GoneError):
            log.info("objects are listed anew", extra=facts)
        else:
            log.warning("objects cannot be followed", extra=facts)
        if not isinstance(error, api.UnavailableError) or attempt % list_watch.FRUITLESS_BEFORE_LIST == 0:
            self._version = ""
        return error.retry_after if isinstance(error, api.UnavailableError) else 0.0

    async def _list(self) -> tuple[dict[str, _T], str]:
        found: dict[str, _T] = {}
        accept = self.resource.accept("PartialObjectMetadataList")
        token = ""
        while True:
            query = self._query(limit=str(self._page_size), **{"continue": token} if token else {})
            page = api.decode(await self._api.get(self.resource.path, query, accept=accept), _Page)
            for item in page.items or ():
                self._keep(found, api.decode(item, _Head).metadata, item)
            token = page.metadata.token
            if not token:
                return found, page.metadata.version

    def _take(self, line: bytes) -> bool:
        """Apply one event; whether it was one about an object."""
        change = api.decode(line, _Change)
        if change.type == "ERROR":
            raise api.failure(f"watch {self.resource.path}", api.decode(change.object, api.Status))
        metadata = api.decode(change.object, _Head).metadata
        concerns = bool(metadata.name) and change.type in {"ADDED", "MODIFIED", "DELETED"}
        if concerns and change.type == "DELETED":
            self.found.pop(_key(metadata), None)
        elif concerns:
            self._keep(self.found, metadata, change.object)
        self._version = metadata.version or self._version
        return concerns

    def _keep(self, found: dict[str, _T], metadata: _Metadata, content: msgspec.Raw) -> None:
        key = _key(metadata)
        try:
            found[key] = self._read(content)
        except api.UnavailableError as error:
            found.pop(key, None)
            facts = logs.facts(path=self.resource.path, object=key, error=error)
            log.warning("an object cannot be understood", extra=facts)

    def _query(self, **parameters: str) -> dict[str, str]:
        return parameters | ({"fieldSelector": self.resource.fields} if self.resource.fields else {})


def _key(metadata: _Metadata) -> str:
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
