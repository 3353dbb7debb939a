"""The rest of a large file over several connections, in order: each fetches the next window of it.

Many servers and proxies limit the rate of each connection. From one that limits to 20 MiB/s, three connections
are 2.3 times as fast (`python -m benchmarks downloading`). Windows are held in memory until they are due, so they
are small and few. The server must prove that all windows are of one file: it accepts ranges and sends a strong
validator, which each request repeats in `If-Range` (RFC 9110 section 13.1.5).

After any other response to a window, the rest comes over one connection, after the usual pause. The same holds for a
resumed file: too many connections may have broken it. Windows are requested from the address of the first response,
so a server that redirects is not asked again for each.
"""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import httpx2 as httpx

from oneagent.common.http import client as http_client
from oneagent.common.http import errors, exchange
from oneagent.common.http.download import http_range

WINDOW_BYTES: Final = 4 << 20
_MIN_BYTES: Final = 8 * WINDOW_BYTES
"""Below this, opening connections costs more than it gains."""


class WindowLimits(Protocol):
    """The part of `transfer.DownloadLimits` that is used here."""

    @property
    def connections(self) -> int: ...

    @property
    def stall_seconds(self) -> float: ...

    @property
    def rate(self) -> exchange.MinimumRate: ...


def is_worthwhile(first: httpx.Response, received: http_range.Received, connections: int) -> bool:
    """Return True if the file of `first` is large enough and its server supports ranges."""
    takes_ranges = first.headers.get("Accept-Ranges", "").lower() == "bytes"
    large = received.size == 0 and (received.total or 0) >= _MIN_BYTES
    return connections > 1 and takes_ranges and received.validator.startswith('"') and large


def fetch_rest(
    first: httpx.Response, http: http_client.Client, received: http_range.Received, limits: WindowLimits
) -> Iterator[bytes]:
    """Yield all bytes behind `received`, the first window of them from `first`, which is then closed.

    `HttpError` if a window cannot be fetched; the bytes before it are valid.
    """
    assert received.total is not None
    spans = [
        (start, min(start + WINDOW_BYTES, received.total))
        for start in range(received.size, received.total, WINDOW_BYTES)
    ]
    later = iter(spans[1:])
    windows = _Windows(http, first.request, received, limits, threading.Event())
    pending: collections.deque[Future[list[bytes]]] = collections.deque()
    with ThreadPoolExecutor(limits.connections, thread_name_prefix="window") as pool:

        def begin(count: int) -> None:
            for span in itertools.islice(later, count):
                # In a copy of this thread's context, so that its cancel scopes end the windows too.
                run = contextvars.copy_context().run
                pending.append(pool.submit(functools.partial(run, windows.fetch, *span)))

        try:
            begin(limits.connections - 1)
            yield from _read_first_window(first, WINDOW_BYTES)
            first.close()
            begin(1)
            while pending:
                chunks = pending.popleft().result()
                begin(1)
                yield from chunks
        finally:
            windows.ended.set()
            for window in pending:
                window.cancel()


@dataclass(frozen=True, slots=True)
class _Windows:
    http: http_client.Client
    request: httpx.Request
    """The request of the first response."""
    received: http_range.Received
    limits: WindowLimits
    ended: threading.Event

    def fetch(self, start: int, stop: int) -> list[bytes]:
        """Return the bytes from `start` up to `stop`, excluded."""
        headers = self.request.headers.copy()
        headers["Range"], headers["If-Range"] = f"bytes={start}-{stop - 1}", self.received.validator
        with (
            exchange.cancel_scope(self.ended),
            self.http.stream(
                "GET",
                str(self.request.url),
                headers=headers,
                idle_seconds=self.limits.stall_seconds,
                rate=self.limits.rate,
            ) as response,
        ):
            self._check(response, f"bytes {start}-{stop - 1}/{self.received.total}")
            chunks, size = [], 0
            for chunk in response.iter_raw():
                chunks.append(chunk)
                size += len(chunk)
                if size > stop - start:
                    break
        if size != stop - start:
            raise self._broken_connection(response, f"{size} bytes of {stop - start} arrived from byte {start}")
        return chunks

    def _check(self, response: httpx.Response, expected: str) -> None:
        if response.status_code in (429, 503):
            raise errors.from_response(response, b"")
        if response.status_code == 200:
            raise http_range.RangeMismatchError(
                f"{errors.redact_url(str(response.url))}: the file changed during the download"
            )
        if response.status_code != 206:
            # The request for the rest shows if this is a refusal: an address may be valid for some minutes only.
            raise self._broken_connection(response, f"a range request was answered {response.status_code}")
        content_range = response.headers.get("Content-Range", "").lower()
        if (
            content_range != expected
            or response.headers.get("ETag", self.received.validator) != self.received.validator
        ):
            raise http_range.RangeMismatchError(
                f"{errors.redact_url(str(response.url))}: {expected!r} was requested, {content_range[:80]!r} was sent"
            )

    def _broken_connection(self, response: httpx.Response, what: str) -> errors.HttpError:
        return errors.UnreachableError(f"{errors.redact_url(str(response.url))}: {what}", errors.Stage.BROKEN)


def _read_first_window(response: httpx.Response, size: int) -> Iterator[bytes]:
    for chunk in response.iter_raw():
        yield chunk[:size]
        size -= len(chunk)
        if size <= 0:
            return
    raise errors.UnreachableError(
        f"{errors.redact_url(str(response.url))}: the connection ended {size} bytes before the end of its first window",
        errors.Stage.BROKEN,
    )
