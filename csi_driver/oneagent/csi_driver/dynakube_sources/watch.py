"""The DynaKubes of one namespace, followed by list and watch.

    SourceError
    └── GoneError   the API server has forgotten the version asked for (410); only a new list helps

A list gives the whole set and its version; a watch from that version gives every later change. As long as the
stream was merely cut, the next watch goes on from the last version seen (bookmarks move it on while nothing
changes), so an API server's restart costs a reconnect of each node, not a list of each node. After 410, or
with every third attempt in a row that brings nothing, the set is listed anew, which also tells what was
deleted meanwhile.

Between attempts there is always a pause, longer with each failure. An attempt that brought an event or stood
for a while resets it.

How requests are made is the business of `Api`; this module knows the protocol only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

import msgspec

from oneagent.common import backoff, dynakube, identifiers, logs
from oneagent.common.kubernetes import list_watch
from oneagent.csi_driver import dynakube_sources

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = (240, 360)
"""A watch is ended by the server after a time in this range, so that a dead connection is found."""

_ALIVE_SECONDS: Final = 2.0 * WATCH_SECONDS[1]

_T = TypeVar("_T")


class GoneError(dynakube_sources.SourceError):
    pass


class Api(Protocol):
    def page(self, token: str) -> bytes:
        """One page of the list; `token` is the last page's `continue`, empty at first."""
        ...

    def stream(self, version: str) -> AbstractContextManager[Iterator[bytes]]:
        """The watch from a version, as the bytes come."""
        ...


class _ListMeta(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[dict[str, Any]] | None = None


class _Change(msgspec.Struct, frozen=True):
    type: str
    object: dict[str, Any]


class Watch:
    """Not for more than one thread, but for `alive`."""

    def __init__(
        self,
        api: Api,
        *,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._api = api
        self._backoff = retry or backoff.Backoff(list_watch.FIRST_PAUSE, list_watch.LONGEST_PAUSE)
        self._clock = clock
        self._wait = wait
        self._turned = clock()
        self._version = ""
        self._found: dict[str, dynakube.DynaKube | str] = {}
        self._reported: dynakube_sources.Snapshot | None = None

    def alive(self) -> bool:
        return self._clock() - self._turned < _ALIVE_SECONDS

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        while not stop.is_set():
            retry_after = 0.0
            try:
                self._attempt(changed, stop)
            except dynakube_sources.SourceError as error:
                if stop.is_set():
                    return
                retry_after = self._failed(error)
            if not stop.is_set():
                self._wait(stop, self._backoff.next(retry_after))

    def _attempt(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        self._turned = began = self._clock()
        if not self._version:
            self._found, self._version = self._list()
            self._report(changed)
        try:
            with self._api.stream(self._version) as stream:
                lines = list_watch.Lines()
                for line in (line for chunk in stream for line in lines.add(chunk)):
                    if stop.is_set():
                        return
                    self._turned = self._clock()
                    if self._take(line):
                        self._backoff.reset()
                        self._report(changed)
        finally:
            if self._clock() - began >= list_watch.STOOD_SECONDS:
                self._backoff.reset()

    def _failed(self, error: dynakube_sources.SourceError) -> float:
        """Forget the version if going on from it makes no sense; how long the server wants us to wait."""
        attempt = self._backoff.failures + 1
        if isinstance(error, GoneError):
            log.info("DynaKubes are listed anew", extra=logs.facts(reason=error))
        else:
            log.warning("DynaKubes cannot be followed", extra=logs.facts(reason=error, attempt=attempt))
        if not isinstance(error, dynakube_sources.UnavailableError) or attempt % list_watch.FRUITLESS_BEFORE_LIST == 0:
            self._version = ""
        return error.retry_after if isinstance(error, dynakube_sources.UnavailableError) else 0.0

    def _list(self) -> tuple[dict[str, dynakube.DynaKube | str], str]:
        found: dict[str, dynakube.DynaKube | str] = {}
        token = ""
        while True:
            page = _decode(self._api.page(token), _Page)
            for item in page.items or ():
                if name := _name(item):
                    found[name] = _read(item)
            token = page.metadata.token
            if not token:
                return found, page.metadata.version
            self._turned = self._clock()

    def _take(self, line: bytes) -> bool:
        """Apply one event; whether it was one about a DynaKube."""
        change = _decode(line, _Change)
        if change.type == "ERROR":
            raise _status_error(change.object)
        name = _name(change.object)
        concerns = bool(name) and change.type in ("ADDED", "MODIFIED", "DELETED")
        if concerns and change.type == "DELETED":
            self._found.pop(name, None)
        elif concerns:
            self._found[name] = _read(change.object)
        self._version = _metadata(change.object, "resourceVersion") or self._version
        return concerns

    def _report(self, changed: Callable[[dynakube_sources.Snapshot], None]) -> None:
        good = {identifiers.DynaKubeName(k): v for k, v in self._found.items() if not isinstance(v, str)}
        bad = {k: v for k, v in self._found.items() if isinstance(v, str)}
        snapshot = dynakube_sources.Snapshot(good, bad)
        if snapshot != self._reported:
            for name, error in snapshot.newly_invalid(self._reported):
                log.error("DynaKube not usable", extra=logs.facts(dynakube=name, error=error))
            self._reported = snapshot
            changed(snapshot)


def _decode(data: bytes, into: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise dynakube_sources.UnavailableError(f"the API server's answer cannot be read: {error}") from error


def _status_error(status: dict[str, Any]) -> dynakube_sources.SourceError:
    message = f"{status.get('code')} {status.get('reason')}: {status.get('message')}"
    gone = status.get("code") == 410 or status.get("reason") in ("Gone", "Expired")
    return GoneError(message) if gone else dynakube_sources.UnavailableError(message)


def _metadata(obj: dict[str, Any], field: str) -> str:
    metadata = obj.get("metadata")
    value = metadata.get(field) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def _name(obj: dict[str, Any]) -> str:
    return _metadata(obj, "name")


def _read(obj: dict[str, Any]) -> dynakube.DynaKube | str:
    try:
        return dynakube.from_manifest(obj)
    except dynakube.DynaKubeError as error:
        return str(error)
