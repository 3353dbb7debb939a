"""Answers requests: who is it, what is asked for, then the bytes, within limits that protect all from each.

Bodies are read by threads in blocks and written as fast as the caller takes them; a caller that takes nothing for
a time, or too little over all, is cut off. (TLS happens in this process, so `sendfile` has nothing to offer.) A
request that fails gets `{"error": {"code", "message"}}`, as tenants answer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from oneagent.common import logs, package_client
from oneagent.operator.package_server import cache, http_requests
from oneagent.operator.package_server.authentication import Callers
from oneagent.operator.package_server.downloader import Fetches
from oneagent.operator.package_server.errors import BusyError, NotProvenError, PackagesError, PendingError
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_READERS: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    transfers: int = 64
    """Packages that are sent at once; others wait for their turn."""
    wait_seconds: float = 20.0
    """How long a request waits for a download, or for its turn. Less than clients wait for an answer."""
    stall_seconds: float = 30.0
    """A caller that takes nothing for so long is cut off."""
    least_bytes_per_second: int = 64 * 1024
    """A caller that takes less, over all, is cut off too."""
    grace_seconds: float = 60.0
    """What every transfer has besides, however small it is."""
    block_bytes: int = 256 * 1024
    """What of a package is in memory for each transfer, besides the connection's buffers."""


@dataclass(slots=True)
class _Transfer:
    """What the log says of one."""

    caller: str
    asked: http_requests.PackageRequest
    part: http_requests.Part
    sent: int = 0
    outcome: str = "error"


class Answers:
    """The handler of all requests."""

    def __init__(
        self, callers: Callers, fetches: Fetches, kept: cache.PackageCache, metrics: PackageMetrics, limits: Limits
    ) -> None:
        self._callers = callers
        self._fetches = fetches
        self._shelf = kept
        self._metrics = metrics
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.transfers)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="send")
        self.active = 0
        """Requests that are being answered."""

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.active += 1
        try:
            return await self._answer(request)
        except PackagesError as error:
            self._metrics.requests.labels(error.outcome).inc()
            return _refusal(error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the caller has gone; a transfer has said so itself
        except Exception:
            log.exception("a request for a package failed")
            self._metrics.requests.labels("error").inc()
            return _json(500, {"error": {"code": 500, "message": "internal error"}})
        finally:
            self.active -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        caller = await self._callers.account(request.headers.get("Authorization", ""))
        asked = http_requests.read(request)
        stored = await self._hold(asked)
        try:
            etag = f'"{stored.sha256}"'
            if asked.metadata:
                self._metrics.requests.labels("metadata").inc()
                known = package_client.Metadata(asked.package.version, stored.sha256, stored.size)
                return _json(200, known, {"ETag": etag})
            if http_requests.has_it(request, etag):
                self._metrics.requests.labels("not_modified").inc()
                return web.Response(status=304, headers={"ETag": etag})
            part = http_requests.part(request, etag, stored.size)
            if part is None:
                self._metrics.requests.labels("bad_range").inc()
                return web.Response(status=416, headers={"Content-Range": f"bytes */{stored.size}", "ETag": etag})
            return await self._send(request, stored, _Transfer(caller, asked, part))
        finally:
            self._shelf.release(stored)

    async def _hold(self, asked: http_requests.PackageRequest) -> cache.Stored:
        """The package, held on the shelf."""
        loop = asyncio.get_running_loop()
        for _ in range(2):  # once more if it went, or proved damaged, between the two steps
            name = await self._fetches.have(asked.package)
            holding = loop.run_in_executor(self._readers, self._shelf.hold, name)
            try:
                stored = await asyncio.shield(holding)
            except asyncio.CancelledError:
                holding.add_done_callback(self._let_go)
                raise
            if stored is not None:
                return stored
        raise PendingError("the package had to make room for another one", retry_after=1)

    def _let_go(self, holding: asyncio.Future[cache.Stored | None]) -> None:
        if not holding.cancelled() and holding.exception() is None and (stored := holding.result()) is not None:
            self._shelf.release(stored)

    # ------------------------------------------------------------------- sending

    async def _send(self, request: web.BaseRequest, stored: cache.Stored, transfer: _Transfer) -> web.StreamResponse:
        part, whole = transfer.part, transfer.part == http_requests.Part(0, stored.size)
        response = web.StreamResponse(status=200 if whole else 206, headers=_headers(stored, part))
        response.content_length = part.end - part.first
        if request.method == "HEAD":
            self._metrics.requests.labels("head").inc()
            await response.prepare(request)
            return response
        await self._turn()
        started = time.perf_counter()
        try:
            with self._metrics.transfers.track_inprogress():
                await self._stream(request, response, stored, transfer)
            transfer.outcome = "ok" if whole else "partial"
        except TimeoutError:
            transfer.outcome = "slow"
            if request.transport is not None:
                request.transport.abort()
        except (ConnectionError, asyncio.CancelledError):
            transfer.outcome = "gone"
            raise
        except OSError:
            # The answer has begun: the caller must see that it does not end as it said.
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._slots.release()
            self._told(transfer, time.perf_counter() - started)
        return response

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise BusyError("as many packages as may be are being sent", retry_after=2) from None

    async def _stream(
        self, request: web.BaseRequest, response: web.StreamResponse, stored: cache.Stored, transfer: _Transfer
    ) -> None:
        loop, limits, offset = asyncio.get_running_loop(), self._limits, transfer.part.first
        most = limits.grace_seconds + (transfer.part.end - offset) / limits.least_bytes_per_second
        with _opened(stored) as file:
            await response.prepare(request)
            async with asyncio.timeout(most):
                while offset < transfer.part.end:
                    size = min(limits.block_bytes, transfer.part.end - offset)
                    block = await loop.run_in_executor(self._readers, os.pread, file, size, offset)
                    if not block:
                        raise OSError(f"{stored.path}: shorter than it was")
                    async with asyncio.timeout(limits.stall_seconds):
                        await response.write(block)
                    offset += len(block)
                    transfer.sent += len(block)
                async with asyncio.timeout(limits.stall_seconds):
                    await response.write_eof()

    def _told(self, transfer: _Transfer, seconds: float) -> None:
        self._metrics.requests.labels(transfer.outcome).inc()
        self._metrics.sent_bytes.inc(transfer.sent)
        package = transfer.asked.package
        log.info(
            "package sent" if transfer.outcome in ("ok", "partial") else "package not sent whole",
            extra=logs.facts(
                outcome=transfer.outcome,
                caller=transfer.caller,
                dynakube=package.dynakube,
                version=package.version,
                arch=package.machine,
                first=transfer.part.first or None,
                bytes=transfer.sent,
                seconds=round(seconds, 3),
            ),
        )


@contextlib.contextmanager
def _opened(stored: cache.Stored) -> Iterator[int]:
    file = os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def _headers(stored: cache.Stored, part: http_requests.Part) -> dict[str, str]:
    digest = base64.b64encode(binascii.unhexlify(stored.sha256)).decode()
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{stored.sha256}"',
        "Accept-Ranges": "bytes",
        # RFC 9530: of the whole package, whichever part of it is sent.
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private",
    }
    if part != http_requests.Part(0, stored.size):
        headers["Content-Range"] = f"bytes {part.first}-{part.end - 1}/{stored.size}"
    return headers


def _refusal(error: PackagesError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, NotProvenError):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 405:
        headers["Allow"] = "GET, HEAD"
    response = _json(error.status, {"error": {"code": error.status, "message": str(error)}}, headers)
    if error.status in (400, 401, 405):
        response.force_close()  # what else comes on this connection is not worth reading
    return response


def _json(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), headers=headers, content_type="application/json")
