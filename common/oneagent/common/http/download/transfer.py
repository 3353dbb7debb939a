"""Tries of one file from one server, until it is whole or there is no use trying.

Each try goes on where the one before broke (see `partfile`, `ranges`), after a growing pause and never before
the server's `Retry-After`. Nothing is begun that does not fit on the disk.

    DownloadError
    ├── DownloadSourceError tries used up, or no use trying; `fault` says what, `retry_after` when to come back
    ├── ContentMismatchError not the size or the digest that was expected; nothing of it is kept
    ├── DiskFullError    `needed` bytes do not fit
    ├── DiskFailedError  another error of the folder
    ├── UnusableFileError a local package that is not a readable, regular file
    └── DownloadCancelledError asked to stop; what came is kept
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
from oneagent.common.http import errors
from oneagent.common.http.download import http_range, parallel, part_file

log = logging.getLogger(__name__)

_LARGEST_ERROR: Final = 64 * 1024


class DownloadError(Exception):
    """A file could not be brought to the disk."""


class DownloadSourceError(DownloadError):
    """The server is the reason."""

    def __init__(self, message: str, fault: errors.HttpError) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = fault.retry_after


class ContentMismatchError(DownloadError):
    """What came is not what was expected."""


class DiskFullError(DownloadError):
    """There is no room for it."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class DiskFailedError(DownloadError):
    """The folder is the reason."""


class UnusableFileError(DownloadError):
    """A local package cannot be used."""


class DownloadCancelledError(DownloadError):
    """The caller asked to stop."""


class Login(Protocol):
    """What a server wants to see of us, where that is not the same for as long as a download lasts."""

    def headers(self) -> Mapping[str, str]:
        """For the next request."""
        ...

    def handle_unauthorized(self, http: httpx.Client, response: httpx.Response) -> bool:
        """Told of an answer 401: whether the request is worth repeating with new headers. May ask; `HttpError`."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A file on a server."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    http: http_client.HttpSettings = field(default_factory=http_client.HttpSettings)
    secret: str = field(default="", repr=False)
    """What must not be shown, even if the server says it."""
    remedy: str = ""
    """What to do if the server refuses us."""
    login: Login | None = field(default=None, repr=False)
    content: str = ""
    """What the file is known by wherever it comes from; its URL if empty."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient a call is. Pauses double from the first to the longest, each with some jitter."""

    attempts: int = 5
    stall_seconds: float = 30.0
    """Without a byte for so long, a connection counts as broken."""
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0
    """A server that asks for more ends the call: the caller has better to do."""
    reserve_bytes: int = 0
    """Free space that is not ours to use."""
    connections: int = 1
    """How many at a time may bring windows of a large file."""

    def pause(self, attempts: int) -> float:
        """Seconds after so many attempts that failed."""
        return backoff.exponential(attempts, self.first_pause_seconds, self.longest_pause_seconds)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known about the content beforehand; `None` and `""` for nothing."""

    size: int | None
    sha256: str

    def check(self, size: int, sha256: str, where: str) -> None:
        if self.size not in (None, size):
            raise ContentMismatchError(f"{where}: {size} bytes, {self.size} were expected")
        if self.sha256 and sha256 != self.sha256:
            raise ContentMismatchError(f"{where}: its SHA-256 is {sha256}, {self.sha256} was expected")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one transfer works with; `run` is the tries, `_attempt` one of them."""

    source: HttpSource
    http: httpx.Client
    part: part_file.PartFile
    wanted: Wanted
    limits: Limits
    folder: Path
    cancelled: threading.Event
    progress: Callable[[int, int | None], None]
    free: Callable[[Path], int]
    one_by_one: threading.Event = field(default_factory=threading.Event)
    """Set once a window could not be had: the rest comes over one connection."""

    @property
    def _where(self) -> str:
        return errors.place(self.source.url)

    def run(self, sleep: Callable[[float], object]) -> None:
        """Complete the part file; `DownloadError`, or `OSError` of the disk."""
        for attempt in itertools.count(1):
            try:
                self._attempt()
                return
            except errors.HttpError as error:
                if attempt >= self.limits.attempts or not self._is_worth_retry(error):
                    raise DownloadSourceError(str(error), error) from error
                pause = backoff.at_least(self.limits.pause(attempt), error.retry_after)
                facts = logs.facts(error=str(error), received=self.part.have.size, pause=round(pause, 1))
                log.warning("download interrupted, will go on", extra=facts)
            sleep(pause)

    def _is_worth_retry(self, error: errors.HttpError) -> bool:
        return error.passing and (error.retry_after or 0) <= self.limits.longest_pause_seconds

    def _attempt(self) -> None:
        self._stop_if_cancelled()
        resumed = self.part.have.size > 0
        try:
            if not self.part.complete:
                self._fetch()
            self.wanted.check(self.part.have.size, self.part.sha256, self._where)
        except http_range.RangeMismatchError:
            self.part.forget()
            raise
        except ContentMismatchError as error:
            if not resumed:
                raise
            # Two halves that do not fit are the resuming's fault, not the package's: once more, all of it.
            self.part.forget()
            raise http_range.RangeMismatchError(f"{error} (after resuming)") from error

    def _fetch(self) -> None:
        login = self.source.login
        try:
            with contextlib.closing(self._ask()) as response:
                repeat = (
                    response.status_code == 401 and login is not None and login.handle_unauthorized(self.http, response)
                )
                if not repeat:
                    return self._receive(response)
            with contextlib.closing(self._ask()) as response:
                return self._receive(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise errors.of_transport(error, self.source.url) from error

    def _ask(self) -> httpx.Response:
        ours = self.source.login.headers() if self.source.login else {}
        headers = {**self.source.headers, **ours, "Accept": "*/*", "Accept-Encoding": "identity"}
        patience = httpx.Timeout(self.source.http.timeout_seconds, read=self.limits.stall_seconds)
        request = self.http.build_request(
            "GET", self.source.url, headers=headers | http_range.headers(self.part.have), timeout=patience
        )
        return self.http.send(request, stream=True)

    def _receive(self, response: httpx.Response) -> None:
        if response.status_code not in (200, 206, 416):
            raise errors.of_answer(response, _beginning(response), secret=self.source.secret, remedy=self.source.remedy)
        plan = http_range.plan(response, self.part.have)
        self._check_answer(response, plan)
        self.part.begin(plan)
        if not self.part.complete:
            for chunk in self._chunks(response, plan):
                if self.part.write(chunk):
                    self._after_window()
        self.progress(self.part.have.size, self.part.have.total)
        if not self.part.complete and self.part.have.total is not None:
            raise errors.UnreachableError(
                f"{self._where}: the connection ended after {self.part.have.size} of {plan.total} bytes",
                errors.Reach.BROKEN,
            )

    def _chunks(self, response: httpx.Response, plan: http_range.Have) -> Iterator[bytes]:
        if self.one_by_one.is_set() or not parallel.worth(response, plan, self.limits.connections):
            yield from response.iter_raw()
            return
        try:
            yield from parallel.rest(response, self.http, plan, self.limits.connections)
        except (errors.HttpError, httpx.HTTPError):
            self.one_by_one.set()
            raise

    def _check_answer(self, response: httpx.Response, plan: http_range.Have) -> None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise errors.UnexpectedResponseError(f"{self._where}: encoded though we asked for it as it is")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise errors.UnexpectedResponseError(
                f"{self._where}: a web page instead of a package: a proxy's login page?"
            )
        total = plan.total if plan.total is not None else self.wanted.size
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
            raise errors.UnexpectedResponseError(f"{self._where}: the answer does not say where it ends")
        if total is not None:
            if self.wanted.size not in (None, total):
                raise ContentMismatchError(f"{self._where}: {total} bytes, {self.wanted.size} were expected")
            self._check_room(total - plan.size, freed=self.part.have.size - plan.size)

    def _check_room(self, needed: int, freed: int = 0) -> None:
        room = self.free(self.folder) + freed - self.limits.reserve_bytes
        if needed > room:
            raise DiskFullError(
                f"{self.folder}: {needed} bytes more are needed, {max(0, room)} are free"
                f" beyond the reserve of {self.limits.reserve_bytes}",
                needed,
            )

    def _after_window(self) -> None:
        """Others write to this disk too, so look again now and then."""
        self.progress(self.part.have.size, self.part.have.total)
        self._stop_if_cancelled()
        self._check_room(0)

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise DownloadCancelledError(f"{self._where}: stopped after {self.part.have.size} bytes")


def _beginning(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _LARGEST_ERROR:
            break
    return bytes(body)
