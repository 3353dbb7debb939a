"""A model of an API server with its history, and a client that drives the core of list and watch against it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch

PATH = "/api/v1/things"


class Thing(msgspec.Struct, frozen=True):
    value: int


def read(content: msgspec.Raw) -> int:
    return errors.decode(content, Thing).value


class Server:
    """A collection with its history; `oldest` is the first version from which a watch may start."""

    def __init__(self) -> None:
        self.version = self.oldest = 10
        self.things: dict[str, int] = {}
        self.history: list[tuple[int, str, str, int]] = []
        self.pages: dict[str, list[dict[str, Any]]] = {}

    def put(self, name: str, value: int) -> None:
        self._change("MODIFIED" if name in self.things else "ADDED", name, value)
        self.things[name] = value

    def delete(self, name: str) -> None:
        if name in self.things:
            self._change("DELETED", name, self.things.pop(name))

    def compact(self) -> None:
        self.version += 1
        self.oldest = self.version
        self.history.clear()
        self.pages.clear()

    def page(self, request: list_watch.ListRequest) -> bytes:
        token = request.query.get("continue", "")
        if token and token not in self.pages:
            raise errors.GoneError("410")
        things = [self._object(name, value, 0) for name, value in sorted(self.things.items())]
        items = self.pages.pop(token) if token else things
        limit = int(request.query["limit"])
        metadata = {"resourceVersion": token.partition("-")[0] or str(self.version)}
        if len(items) > limit:
            metadata["continue"] = f"{metadata['resourceVersion']}-{len(items)}"
            self.pages[metadata["continue"]] = items[limit:]
        return json.dumps({"metadata": metadata, "items": items[:limit]}).encode()

    def stream(self, request: list_watch.WatchRequest) -> bytes:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            raise errors.GoneError("410")
        events = [
            json.dumps({"type": kind, "object": self._object(name, value, at)})
            for at, kind, name, value in self.history
            if at > since
        ]
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
        return "".join(f"{line}\n" for line in [*events, json.dumps(bookmark)]).encode()

    def _change(self, kind: str, name: str, value: int) -> None:
        self.version += 1
        self.history.append((self.version, kind, name, value))

    def _object(self, name: str, value: int, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}, "value": value}


class Client:
    """Drives the core one request at a time, and keeps what it was told of changes."""

    def __init__(self, server: Server, cuts: Iterator[int]) -> None:
        self.server, self.cuts = server, cuts
        collection = list_watch.Collection(PATH, page_size=2)
        self.state = list_watch.ListWatch(collection, read, retry=backoff.Backoff(1, 1, draw=lambda: 1.0))
        self.mirror: dict[str, int] = {}

    def step(self) -> None:
        request, error = self.state.next_request(), None
        try:
            if isinstance(request, list_watch.ListRequest):
                self._apply(self.state.add_page(self.server.page(request)))
                return
            content = self.server.stream(request)
            self.state.open()
            cut = next(self.cuts)
            if 0 <= cut < len(content):
                content = content[:cut]
            for start in range(0, len(content), 50):
                for changes in self.state.add_chunk(content[start : start + 50]):
                    self._apply(changes)
        except errors.ApiError as failure:
            error = failure
        self.state.end_attempt(error)

    def _apply(self, changes: list_watch.Changes[int] | None) -> None:
        if changes is not None:
            assert not changes.deleted.keys() - self.mirror.keys()
            self.mirror |= changes.updated
            for key, last in changes.deleted.items():
                assert self.mirror.pop(key) == last
            assert self.mirror == self.state.objects


def synced(server: Server) -> Client:
    client = Client(server, itertools.repeat(-1))
    for _ in range(4):
        client.step()
    return client


def requests(state: list_watch.ListWatch[int]) -> Iterator[list_watch.ListRequest]:
    while isinstance(request := state.next_request(), list_watch.ListRequest):
        yield request
