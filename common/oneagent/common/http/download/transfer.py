"""Attempts to download one file from one server, until it is complete or a retry is pointless.

Each attempt continues where the previous one broke (see `part_file`, `http_range`), after a growing pause and never
before the server's `Retry-After`. No transfer starts that does not fit on the disk. A server that refuses to continue
is asked for the whole file.

An expected digest proves the bytes, whatever the headers say of them. Without one, a response is refused that names a
content coding, or that is a web page.

    DownloadError
    ├── DownloadSourceError         the server; `cause` is its `HttpError`, `retry_after` the time to come back
    ├── ContentMismatchError        another size or digest than expected; nothing of it is kept
    ├── DiskFullError               `needed` bytes do not fit
    ├── DiskFailedError             another error of the directory
    ├── UnusableFileError           a local package that is not a readable, regular file
    └── DownloadCancelledError      cancelled by the caller; the received bytes are kept
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import httpx2 as httpx

from oneagent.common import backoff, logs
from oneagent.common.http import client as http_client
from oneagent.common.http import errors, exchange
from oneagent.common.http.download import http_range, parallel, part_file

log = logging.getLogger(__name__)

_MAX_ERROR_BYTES: Final = 64 * 1024
_ANSWERS: Final = (200, 206, 416)
_CODINGS: Final = frozenset(
    (
        "aes128gcm",
        "br",
        "compress",
        "dcb",
        "dcz",
        "deflate",
        "exi",
        "gzip",
        "pack200-gzip",
        "x-compress",
        "x-gzip",
        "zstd",
    )
)
"""Codings of the IANA's registry, which change the bytes. Object stores send others, such as `aws-chunked`."""


class DownloadError(Exception):
    """A file could not be downloaded."""


class DownloadSourceError(DownloadError):
    """The server caused the failure."""

    def __init__(self, message: str, cause: errors.HttpError) -> None:
        super().__init__(message)
        self.cause = cause
        self.retry_after = cause.retry_after


class ContentMismatchError(DownloadError):
    """The content has another size or digest than expected."""


class DiskFullError(DownloadError):
    """The disk has too little free space."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class DiskFailedError(DownloadError):
    """The directory cannot be written."""


class UnusableFileError(DownloadError):
    """A local package cannot be used."""


class DownloadCancelledError(DownloadError):
    """The caller cancelled the download."""


class Authenticator(Protocol):
    """Credentials that change while a download lasts."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers of the next request."""
        ...

    def handle_unauthorized(self, http: http_client.Client, response: httpx.Response) -> bool:
        """React to a 401; True if a retry with new headers is worthwhile. May send requests; raises `HttpError`."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A file on a server."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    http: http_client.HttpSettings = field(default_factory=http_client.HttpSettings)
    secret: str = field(default="", repr=False)
    """Text that no message may show, even if the server sends it."""
    remedy: str = ""
    """Advice for messages about a refused request."""
    authenticator: Authenticator | None = field(default=None, repr=False)
    content_id: str = ""
    """Identity of the file, whatever server it comes from; its URL if empty."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits of one call. Pauses double from the first to the longest, each with some jitter."""

    attempts: int = 5
    stall_seconds: float = 30.0
    """A connection without a byte for this time counts as broken."""
    rate: exchange.MinimumRate = exchange.PACKAGE_RATE
    """A connection that is slower counts as broken."""
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 60.0
    """A server that asks for a longer pause ends the call: the caller has alternatives."""
    reserve_bytes: int = 0
    """Free space that stays free."""
    connections: int = 1
    """Connections that fetch windows of a large file at the same time."""

    def pause(self, attempts: int) -> float:
        """Return the seconds to pause after this number of failed attempts."""
        return backoff.exponential(attempts, self.min_pause_seconds, self.max_pause_seconds)


@dataclass(frozen=True, slots=True)
class Expected:
    """Known size and digest of the content; `None` and `""` if unknown."""

    size: int | None
    sha256: str

    def check(self, size: int, sha256: str, where: str) -> None:
        if self.size not in (None, size):
            raise ContentMismatchError(f"{where}: {size} bytes, {self.size} were expected")
        if self.sha256 and sha256 != self.sha256:
            raise ContentMismatchError(f"{where}: its SHA-256 is {sha256}, {self.sha256} was expected")


@dataclass(frozen=True, slots=True)
class Transfer:
    """State of one transfer: `run` makes the attempts, `_attempt` is one of them."""

    source: HttpSource
    http: http_client.Client
    part: part_file.PartFile
    expected: Expected
    limits: DownloadLimits
    directory: Path
    cancelled: threading.Event
    progress: Callable[[int, int | None], None]
    free: Callable[[Path], int]
    single_connection: threading.Event = field(default_factory=threading.Event)
    """Set once a window failed: the rest comes over one connection."""
    range_failed: threading.Event = field(default_factory=threading.Event)
    """Set once the server failed to continue the file."""

    @property
    def _location(self) -> str:
        return errors.redact_url(self.source.url)

    def run(self, sleep: Callable[[float], object]) -> None:
        """Complete the part file. Raises `DownloadError`, or `OSError` of the disk."""
        for attempt in itertools.count(1):
            try:
                self._attempt()
                return
            except errors.RequestCancelledError:
                raise self._cancelled_error() from None
            except errors.HttpError as error:
                if attempt >= self.limits.attempts or not self._is_retryable(error):
                    raise DownloadSourceError(str(error), error) from error
                pause = backoff.at_least(self.limits.pause(attempt), error.retry_after)
                details = logs.fields(error=str(error), received=self.part.received.size, pause=round(pause, 1))
                log.warning("download interrupted, retrying", extra=details)
            sleep(pause)

    def _is_retryable(self, error: errors.HttpError) -> bool:
        return error.is_transient and (error.retry_after or 0) <= self.limits.max_pause_seconds

    def _attempt(self) -> None:
        self._stop_if_cancelled()
        resumed = self.part.received.size > 0
        oddity = ""
        try:
            if not self.part.complete:
                oddity = self._fetch()
            where = f"{self._location}{f' ({oddity})' if oddity else ''}"
            self.expected.check(self.part.received.size, self.part.sha256, where)
        except http_range.RangeMismatchError:
            self.part.reset()
            raise
        except ContentMismatchError as error:
            if not resumed:
                raise
            # Two halves that do not fit are the resuming's cause, not the package's: once more, all of it.
            self.part.reset()
            raise http_range.RangeMismatchError(f"{error} (after resuming)") from error

    def _fetch(self) -> str:
        """Receive what is missing, or the whole file; return as `_receive`."""
        with self._request(http_range.request_headers(self.part.received)) as response:
            repeat = self._repeats_authenticated(response)
            if not repeat and not self._refuses_range(response):
                return self._receive(response)
        if repeat:
            with self._request(http_range.request_headers(self.part.received)) as response:
                if not self._refuses_range(response):
                    return self._receive(response)
        with self._request({}) as response:
            return self._receive(response)

    def _repeats_authenticated(self, response: httpx.Response) -> bool:
        authenticator = self.source.authenticator
        return (
            response.status_code == 401
            and authenticator is not None
            and authenticator.handle_unauthorized(self.http, response)
        )

    def _refuses_range(self, response: httpx.Response) -> bool:
        """Return True if the whole file may be answered where a part of it is not; at once only if not transient."""
        if "Range" not in response.request.headers or response.status_code in (*_ANSWERS, 401, 429, 503):
            return False
        if response.status_code == 501 or response.status_code < 500 or self.range_failed.is_set():
            return True
        self.range_failed.set()
        return False

    def _request(self, range_headers: Mapping[str, str]) -> contextlib.AbstractContextManager[httpx.Response]:
        auth_headers = self.source.authenticator.headers() if self.source.authenticator else {}
        headers = {**self.source.headers, **auth_headers, **range_headers}
        return self.http.stream(
            "GET", self.source.url, headers=headers, idle_seconds=self.limits.stall_seconds, rate=self.limits.rate
        )

    def _receive(self, response: httpx.Response) -> str:
        """Receive a response's body; return what its headers have of a response that is no file, for messages."""
        if response.status_code not in _ANSWERS:
            raise errors.from_response(
                response, _read_error_body(response), secret=self.source.secret, remedy=self.source.remedy
            )
        plan = http_range.plan(response, self.part.received)
        oddity = self._check_response(response, plan)
        self.part.start(plan)
        if not self.part.complete:
            for chunk in self._read_chunks(response, plan):
                if self.part.write(chunk):
                    self._after_window()
        self.progress(self.part.received.size, self.part.received.total)
        if not self.part.complete and self.part.received.total is not None:
            raise errors.UnreachableError(
                f"{self._location}: the connection ended after {self.part.received.size} of {plan.total} bytes",
                errors.Stage.BROKEN,
            )
        return oddity

    def _read_chunks(self, response: httpx.Response, plan: http_range.Received) -> Iterator[bytes]:
        if self.single_connection.is_set() or not parallel.is_worthwhile(response, plan, self.limits.connections):
            yield from response.iter_raw()
            return
        try:
            yield from parallel.fetch_rest(response, self.http, plan, self.limits)
        except (errors.HttpError, httpx.HTTPError):
            self.single_connection.set()
            raise

    def _check_response(self, response: httpx.Response, plan: http_range.Received) -> str:
        """Return as `_receive`."""
        total = plan.total if plan.total is not None else self.expected.size
        oddity = _find_oddity(response.headers, has_size=total is not None)
        proves_content = self.expected.sha256 and (total is None or self.expected.size in (None, total))
        if oddity and not proves_content:
            raise errors.UnexpectedResponseError(f"{self._location}: {oddity}")
        if total is not None:
            if self.expected.size not in (None, total):
                raise ContentMismatchError(f"{self._location}: {total} bytes, {self.expected.size} were expected")
            self._check_free_space(total - plan.size, freed=self.part.received.size - plan.size)
        return oddity

    def _check_free_space(self, needed: int, freed: int = 0) -> None:
        available = self.free(self.directory) + freed - self.limits.reserve_bytes
        if needed > available:
            raise DiskFullError(
                f"{self.directory}: {needed} bytes more are needed, {max(0, available)} are free"
                f" beyond the reserve of {self.limits.reserve_bytes}",
                needed,
            )

    def _after_window(self) -> None:
        """Check the free space again: other processes write to this disk too."""
        self.progress(self.part.received.size, self.part.received.total)
        self._stop_if_cancelled()
        self._check_free_space(0)

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise self._cancelled_error()

    def _cancelled_error(self) -> DownloadCancelledError:
        return DownloadCancelledError(f"{self._location}: stopped after {self.part.received.size} bytes")


def _find_oddity(headers: httpx.Headers, *, has_size: bool) -> str:
    """Return what a response to a request for a file should not have; empty if there is nothing."""
    codings = {coding.strip().lower() for coding in headers.get("Content-Encoding", "").split(",")}
    if codings & _CODINGS:
        return "the response is encoded, although identity was requested"
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        return "a web page instead of a package: a proxy's login page?"
    if not has_size and "chunked" not in headers.get("Transfer-Encoding", ""):
        return "the response has neither a Content-Length nor chunks"
    return ""


def _read_error_body(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    return bytes(body)
