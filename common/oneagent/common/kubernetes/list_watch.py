"""List and watch of one collection of objects, as a state machine without I/O.

A list gives the whole set and its resource version. A watch from that version gives every later change. A stream
that was merely cut resumes from the last version seen, which bookmarks advance while nothing changes. An API
server's restart therefore costs each client a reconnect, not a list.

A new list, which also shows what was deleted meanwhile, follows

- a response by which the server does not know the version: a 410, or a version lower than the last;
- a stream that was silent for too long, see `Periods`: what it should have sent is unknown;
- the third attempt in a row that brought no newer version and no bookmark, whatever ended it. A server may answer an
  unknown version with any status, or with a stream that is empty or ends at once.

Until that list is complete the old set stays.

A driver (`watch.Watch` over asyncio) does the I/O. It makes each `next_request`, gives pages to `add_page` and, after
`open`, the chunks of a stream to `add_chunk`. After an error, and at the end of a stream, it sleeps for `end_attempt`.

Between attempts there is always a pause with full jitter, longer with each failure. An attempt that brought a newer
object or stood for a while resets it. An object that `read` refuses is left out with a warning; it hides no other.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import msgspec

from oneagent.common import backoff, logs, typed_json
from oneagent.common.kubernetes import errors

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 500
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0

_STOOD_SECONDS: Final = 5.0
"""A stream that was open for this long was no failure."""
_ATTEMPTS_BEFORE_LIST: Final = 3
_LONGEST_DRAW: Final = 4 / 3
_METADATA_ONLY: Final = "application/json;as={shape};g=meta.k8s.io;v=v1,application/json"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Periods:
    """Times of watches, in seconds. Each request draws up to a third more, so that clients do not return together."""

    watch: float = 300.0
    """The server ends a watch after this long, if it sent bookmarks in the last one."""
    quiet: float = 75.0
    """The same without bookmarks: the end is then the only sign that the server is there. It sends none of Events,
    and none of a collection at rest whose etcd reports no progress."""
    spare: float = 15.0
    """For the way, and for a busy server."""

    @property
    def silence(self) -> float:
        """A stream on which nothing comes for this long is dead. Bookmarks come every minute."""
        return self.quiet * _LONGEST_DRAW + self.spare


DEFAULT_PERIODS: Final = Periods()


@dataclass(frozen=True, slots=True)
class Collection:
    """Objects of one kind, and which of them."""

    path: str
    """Of the list, as `/api/v1/namespaces`"""
    field_selector: str = ""
    """As `metadata.name=example`"""
    label_selector: str = ""
    metadata_only: bool = False
    page_size: int = PAGE_SIZE
    periods: Periods = DEFAULT_PERIODS

    def accept(self, shape: str = "PartialObjectMetadata") -> str:
        """The media types to request; `shape` is the response's kind with metadata only."""
        return _METADATA_ONLY.format(shape=shape) if self.metadata_only else "application/json"


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The next page of the list."""

    query: Mapping[str, str]
    accept: str


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A stream of events."""

    query: Mapping[str, str]
    accept: str
    silence_seconds: float
    """A stream on which nothing comes for this long is dead: `SilentError`."""


@dataclass(frozen=True, slots=True)
class Changes(Generic[_T]):
    """Difference to the set before, by key: of a complete list, or of one event."""

    updated: Mapping[str, _T] = field(default_factory=dict)
    deleted: Mapping[str, _T] = field(default_factory=dict)
    """As they were last."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    token: str = msgspec.field(name="continue", default="")


class _Head(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _Page(_Head, frozen=True):
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class ListWatch(Generic[_T]):
    """`objects` maps `namespace/name`, or the name of objects without a namespace, to the result of `read`.

    `read` decodes an object's JSON (`errors.decode`) into as little as its user needs.
    """

    def __init__(
        self,
        collection: Collection,
        read: Callable[[msgspec.Raw], _T],
        *,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.collection = collection
        self.objects: dict[str, _T] = {}
        self.is_synced = False
        """A list was complete at least once."""
        self.problem = ""
        """The error of the last attempt."""
        self._read, self._clock = read, clock
        self._backoff = retry or backoff.Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._version = ""
        self._token = ""
        self._listed: dict[str, _T] = {}
        self._lines = Lines()
        self._opened_at: float | None = None
        self._heard_at: float | None = None
        self._sends_bookmarks = False
        """The last watch brought one."""
        self._was_useful = False
        """The attempt brought a newer version or a bookmark."""
        self._useless_attempts = 0
        """In a row, since the last list."""

    @property
    def version(self) -> str:
        """From where the next watch starts; empty if the next request is a list."""
        return self._version

    @property
    def silent_seconds(self) -> float:
        """Seconds without a response of the server, also if the driver hangs; 0 before the first request.

        An error is a response too, except one that says that none came in time.
        """
        return max(0.0, self._clock() - self._heard_at) if self._heard_at is not None else 0.0

    @property
    def silence(self) -> str:
        """The reason why the objects may be out of date: the server is silent, also on a new connection; or ''."""
        periods, seconds = self.collection.periods, self.silent_seconds
        if seconds <= periods.silence + periods.spare:
            return ""
        return f"watch of {self.collection.path}: no response for {seconds:.0f} s"

    def next_request(self) -> ListRequest | WatchRequest:
        self._was_useful = False
        if self._heard_at is None:
            self._heard_at = self._clock()
        if not self._version:
            query = {"limit": str(self.collection.page_size)} | ({"continue": self._token} if self._token else {})
            return ListRequest(query | self._selectors(), self.collection.accept("PartialObjectMetadataList"))
        periods = self.collection.periods
        seconds = (periods.watch if self._sends_bookmarks else periods.quiet) * random.uniform(1.0, _LONGEST_DRAW)
        self._sends_bookmarks = False
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": f"{seconds:.0f}",
        }
        return WatchRequest(query | self._selectors(), self.collection.accept(), periods.silence)

    def add_page(self, content: bytes) -> Changes[_T] | None:
        """The difference once the list is complete, None before; `ApiError` if the page cannot be read."""
        page = errors.decode(content, _Page)
        self._heard_at = self._clock()
        for item in page.items or ():
            self._put(self._listed, errors.decode(item, _Head).metadata, item)
        self._token = page.metadata.token
        if self._token:
            return None
        if not page.metadata.version:
            raise errors.UnavailableError(f"the list {self.collection.path} has no resource version")
        self._version, self._useless_attempts = page.metadata.version, 0
        before, self.objects, self._listed = self.objects, self._listed, {}
        self.is_synced, self.problem = True, ""
        return Changes(
            {key: now for key, now in self.objects.items() if key not in before or before[key] != now},
            {key: last for key, last in before.items() if key not in self.objects},
        )

    def open(self) -> None:
        """Note that the server has answered the watch request."""
        self._opened_at = self._clock()
        self._lines = Lines()
        self.problem = ""

    def add_chunk(self, chunk: bytes) -> Iterator[Changes[_T]]:
        """The changes by the events that end in a chunk; `ApiError` at one that ends the stream."""
        for line in self._lines.add(chunk):
            self._heard_at = self._clock()
            if (changes := self._apply(line)) is not None:
                yield changes

    def end_attempt(self, error: Exception | None = None) -> float:
        """Seconds to wait before the next request, after an error or the end of a stream."""
        stood = self._opened_at is not None and self._clock() - self._opened_at >= _STOOD_SECONDS
        is_silent = isinstance(error, errors.SilentError)
        if stood:
            self._backoff.reset()
        if error is None and not stood and not self._was_useful:
            error = errors.UnavailableError(f"watch of {self.collection.path}: ended at once")
        self._opened_at, self._token, self._listed = None, "", {}
        self._useless_attempts = 0 if self._was_useful else self._useless_attempts + 1
        if error is not None:
            self._report(error)
        if not isinstance(error, errors.UnavailableError | None) or is_silent or self._is_version_doubtful():
            self._version = ""
        pause = self._backoff.next(error.retry_after if isinstance(error, errors.UnavailableError) else 0.0)
        if not is_silent:
            self._heard_at = self._clock() + pause
        return pause

    def _is_version_doubtful(self) -> bool:
        return self._useless_attempts > 0 and self._useless_attempts % _ATTEMPTS_BEFORE_LIST == 0

    def _report(self, error: Exception) -> None:
        self.problem = str(error)
        details = logs.fields(path=self.collection.path, reason=error, attempt=self._backoff.failures + 1)
        if isinstance(error, errors.GoneError):
            log.info("resource version expired, listing again", extra=details)
        elif isinstance(error, errors.ApiError):
            log.warning("list or watch failed", extra=details)
        else:
            # A mistake of ours about one object must not end the watch for all others.
            log.error("list or watch failed", extra=details, exc_info=error)

    def _apply(self, line: bytes) -> Changes[_T] | None:
        """The change by one event; None for an event that is about no object."""
        event = errors.decode(line, _Event)
        if event.type == "ERROR":
            raise errors.from_status(f"watch {self.collection.path}", errors.decode(event.object, errors.Status))
        metadata = errors.decode(event.object, _Head).metadata
        self._advance(metadata.version, is_bookmark=event.type == "BOOKMARK")
        if metadata.name and event.type in {"ADDED", "MODIFIED"}:
            return self._put(self.objects, metadata, event.object)
        if metadata.name and event.type == "DELETED":
            return _removed(self.objects, _key(metadata))
        return None

    def _advance(self, version: str, *, is_bookmark: bool) -> None:
        """Take the version of an event; `GoneError` if it is lower, as after etcd was restored from a backup."""
        if _is_older(version, self._version):
            raise errors.GoneError(f"watch {self.collection.path}: version {version} after {self._version}")
        if is_bookmark:
            self._sends_bookmarks = self._was_useful = True
        elif version != self._version:
            self._was_useful = True
            self._backoff.reset()
        self._version = version or self._version

    def _put(self, into: dict[str, _T], metadata: _Metadata, content: msgspec.Raw) -> Changes[_T]:
        key = _key(metadata)
        try:
            into[key] = now = self._read(content)
        except errors.UnavailableError as error:
            details = logs.fields(path=self.collection.path, object=key, error=error)
            log.warning("object cannot be read, ignored", extra=details)
            return _removed(into, key)
        return Changes({key: now})

    def _selectors(self) -> dict[str, str]:
        selectors = {"fieldSelector": self.collection.field_selector, "labelSelector": self.collection.label_selector}
        return {name: selector for name, selector in selectors.items() if selector}


class Lines:
    """Whole lines of one stream. The rest that a cut leaves is dropped; the next watch sends it again.

    Split at newlines only: text lines would also be split at U+2028, which JSON may hold.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def add(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        start = len(self._rest)
        self._rest += chunk
        if self._rest.find(b"\n", start) < 0:
            return []
        *whole, self._rest = self._rest.split(b"\n")
        return [bytes(line) for line in whole if line.strip()]


def _is_older(version: str, than: str) -> bool:
    """Versions of one collection are numbers that grow (KEP-5504); others are not compared."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def _removed(objects: dict[str, _T], key: str) -> Changes[_T]:
    return Changes({}, {key: objects.pop(key)} if key in objects else {})


def _key(metadata: _Metadata) -> str:
    return f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name


typed_json.prepare(_Page, _Head, _Event)
