"""List and watch of one collection of objects, as a state machine without I/O.

A list gives the whole set and its resource version. A watch from that version gives every later change. A stream
that was merely cut resumes from the last version seen, which bookmarks advance while nothing changes. An API server
that has restarted knows no version from before (seen with Kubernetes 1.35): it answers with 410, and a list follows.

A new list, which also shows what was deleted meanwhile, follows

- a response by which the server does not know the version: a 410, or a version lower than the last;
- a stream that was silent for too long, see `Periods`: what it should have sent is unknown;
- the third attempt in a row that brought no newer version and no bookmark, whatever ended it. A server may answer an
  unknown version with any status, or with a stream that is empty or ends at once.

Until that list is complete the old set stays. Thousands of clients lose their watches together, as by any change of a
CRD. So a new list waits a random time (`Periods.relist`; on a new installation not for long), and it is served from
the API server's cache, with `resourceVersion=0`, if the set fits into a page: such a list has no pages. One that is
older than what was seen is refused, and the next one is read from etcd. The first list of a process does not wait and
is read from etcd.

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

_BOOKMARK_SECONDS: Final = 75.0
"""Bookmarks come every minute."""
_NEW_SECONDS: Final = 300.0
_NEW_RELIST_SECONDS: Final = 10.0
"""Longest wait for a new list in the first minutes of a process that knows no object. A new installation loses its
watches when the CRD gets its CA bundle, and its user waits for the first object then."""
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
    """The server ends a watch after this long, if it sent bookmarks in the last one from its first minutes on."""
    quiet: float = _BOOKMARK_SECONDS
    """The same without bookmarks: the end is then the only sign that the server is there. It sends none of Events,
    and none of a collection at rest whose etcd reports progress seldom. (kubeadm has etcd report every 5 s; by default
    it does every 10 minutes.)"""
    spare: float = 15.0
    """For the way, and for a busy server."""
    relist: float = 0.0
    """A new list waits a random time up to this, except the first one and one after a silent connection."""

    @property
    def bookmark(self) -> float:
        """A server that sends bookmarks has sent the first one after this long."""
        return min(self.quiet, _BOOKMARK_SECONDS)

    def silence(self, *, has_bookmarks: bool = False) -> float:
        """A stream on which nothing comes for this long is dead."""
        return (self.bookmark if has_bookmarks else self.quiet) * _LONGEST_DRAW + self.spare


DEFAULT_PERIODS: Final = Periods()
NODE_PERIODS: Final = Periods(watch=1800.0, quiet=300.0, relist=60.0)
"""Of clients that are as many as nodes: each end of a watch is a request, and so is the list after three of them that
brought nothing: 1.7 an hour, and 14 without bookmarks. By default an API server
ends watches after 30 to 60 minutes, too."""


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
    is_list: bool = False
    """Of a complete list. It counts whatever versions its objects have: etcd may have been restored from a backup."""
    is_restored: bool = False
    """Of a list older than what came before, as after such a restore. All its objects are in `updated`, since equal
    versions of an object may have different contents."""


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
        self._synced_at = 0.0
        self.problem = ""
        """The error of the last attempt."""
        self._read, self._clock = read, clock
        self._backoff = retry or backoff.Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._version = ""
        self._seen = ""
        """The version of the set while a new list is awaited."""
        self._is_cache_stale = False
        """The last list was served from a cache and was older than the set."""
        self._token = ""
        self._listed: dict[str, _T] = {}
        self._lines = Lines()
        self._opened_at: float | None = None
        self._heard_at: float | None = None
        self._has_bookmarks: bool | None = None
        """The last watch that stood for long enough brought one in time; None before it."""
        self._brought_bookmark = False
        """The present watch brought one in time."""
        self._silence_seconds = collection.periods.silence()
        """Of the last request."""
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
        seconds = self.silent_seconds
        if seconds <= self._silence_seconds + self.collection.periods.spare:
            return ""
        return f"watch of {self.collection.path}: no response for {seconds:.0f} s"

    def next_request(self) -> ListRequest | WatchRequest:
        self._was_useful = False
        if self._heard_at is None:
            self._heard_at = self._clock()
        if not self._version:
            query = {"limit": str(self.collection.page_size)} | self._page_query()
            return ListRequest(query | self._selectors(), self.collection.accept("PartialObjectMetadataList"))
        periods = self.collection.periods
        # The first watch is short, to find out.
        quiet = periods.quiet if self._has_bookmarks is False else periods.bookmark
        seconds = (periods.watch if self._has_bookmarks else quiet) * random.uniform(1.0, _LONGEST_DRAW)
        self._silence_seconds = periods.silence(has_bookmarks=self._has_bookmarks is not False)
        self._brought_bookmark = False
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": f"{seconds:.0f}",
        }
        return WatchRequest(query | self._selectors(), self.collection.accept(), self._silence_seconds)

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
        is_restored = _is_older(page.metadata.version, self._seen)
        if is_restored and self._uses_cache:
            self._is_cache_stale = True
            raise errors.UnavailableError(f"the list {self.collection.path} is older than the last one")
        self._version, self._useless_attempts, self._is_cache_stale = page.metadata.version, 0, False
        before, self.objects, self._listed = self.objects, self._listed, {}
        if not self.is_synced:
            self.is_synced, self._synced_at = True, self._clock()
        self.problem = ""
        return Changes(
            {k: now for k, now in self.objects.items() if is_restored or k not in before or before[k] != now},
            {key: last for key, last in before.items() if key not in self.objects},
            is_list=True,
            is_restored=is_restored,
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
        lasted = self._clock() - self._opened_at if self._opened_at is not None else 0.0
        stood = lasted >= _STOOD_SECONDS
        if self._brought_bookmark or lasted >= self.collection.periods.bookmark:
            self._has_bookmarks = self._brought_bookmark
        is_silent = isinstance(error, errors.SilentError)
        if stood:
            self._backoff.reset()
        if error is None and not stood and not self._was_useful:
            error = errors.UnavailableError(f"watch of {self.collection.path}: ended at once")
        self._opened_at, self._token, self._listed = None, "", {}
        self._useless_attempts = 0 if self._was_useful else self._useless_attempts + 1
        if error is not None:
            self._report(error)
        pause = self._backoff.next(error.retry_after if isinstance(error, errors.UnavailableError) else 0.0)
        if not isinstance(error, errors.UnavailableError | None) or is_silent or self._is_version_doubtful():
            pause = max(pause, self._drop_version(spread=not is_silent))
        if not is_silent:
            self._heard_at = self._clock() + pause
        return pause

    @property
    def _uses_cache(self) -> bool:
        """A list may be served from the API server's cache, in one piece."""
        return self.is_synced and not self._is_cache_stale and len(self.objects) <= self.collection.page_size

    def _page_query(self) -> dict[str, str]:
        if self._token:
            return {"continue": self._token}
        return {"resourceVersion": "0"} if self._uses_cache else {}

    def _drop_version(self, *, spread: bool) -> float:
        """Let the next request be a list; return the seconds until then, none if this client alone lost its watch."""
        if not self._version:
            return 0.0
        self._seen, self._version = self._version, ""
        longest = self.collection.periods.relist
        if not self.objects and self._clock() - self._synced_at < _NEW_SECONDS:
            longest = min(longest, _NEW_RELIST_SECONDS)
        return random.uniform(0.0, longest) if spread else 0.0

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
            self._was_useful = True
            opened_at = self._clock() if self._opened_at is None else self._opened_at
            if self._clock() - opened_at <= self.collection.periods.silence(has_bookmarks=True):
                self._brought_bookmark = True
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
