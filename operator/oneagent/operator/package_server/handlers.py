"""HTTP handlers: authenticate, find the package, send the bytes, within limits that protect clients from each other.

Threads read files in blocks, which are written at the client's speed. A stalled or slow client is disconnected. TLS
ends in this process, so `sendfile` is not possible. A failed request gets `{"error": {"code", "message"}}`, the
format of tenants.
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
from oneagent.operator.package_server.authentication import Authenticator
from oneagent.operator.package_server.downloader import Downloader
from oneagent.operator.package_server.errors import BusyError, PackagesError, PendingError, UnauthenticatedError
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_READERS: Final = 4


@dataclass(frozen=True, slots=True)
class RequestLimits:
    transfers: int = 64
    """Concurrent transfers; further requests wait for a slot."""
    wait_seconds: float = 20.0
    """Longest wait for a download or a slot; less than the timeout of clients."""
    stall_seconds: float = 30.0
    """Time without progress after which a client is disconnected."""
    least_bytes_per_second: int = 64 * 1024
    """Lowest average rate; slower clients are disconnected."""
    grace_seconds: float = 60.0
    """Added to the time limit of every transfer."""
    block_bytes: int = 256 * 1024
    """Memory of a transfer, in addition to the connection's buffers."""


@dataclass(slots=True)
class _Transfer:
    client: str
    package: package_client.Package
    range: http_requests.ByteRange
    sent: int = 0
    outcome: str = "error"


class RequestHandler:
    def __init__(
        self,
        authenticator: Authenticator,
        downloader: Downloader,
        package_cache: cache.PackageCache,
        metrics: PackageMetrics,
        limits: RequestLimits,
    ) -> None:
        self._authenticator = authenticator
        self._downloader = downloader
        self._cache = package_cache
        self._metrics = metrics
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.transfers)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="send")
        self.active = 0
        """Number of running requests."""

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.active += 1
        try:
            return await self._handle(request)
        except PackagesError as error:
            self._metrics.requests.labels(error.outcome).inc()
            return _error_response(error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # The client has disconnected; a transfer has logged it.
        except Exception:
            log.exception("package request failed")
            self._metrics.requests.labels("error").inc()
            return _json(500, {"error": {"code": 500, "message": "internal error"}})
        finally:
            self.active -= 1

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = await self._authenticator.authenticate(request.headers.get("Authorization", ""))
        package_request = http_requests.parse(request)
        stored = await self._pin(package_request.package)
        try:
            etag = f'"{stored.sha256}"'
            if package_request.metadata:
                self._metrics.requests.labels("metadata").inc()
                metadata = package_client.Metadata(package_request.package.version, stored.sha256, stored.size)
                return _json(200, metadata, {"ETag": etag})
            if http_requests.not_modified(request, etag):
                self._metrics.requests.labels("not_modified").inc()
                return web.Response(status=304, headers={"ETag": etag})
            byte_range = http_requests.byte_range(request, etag, stored.size)
            if byte_range is None:
                self._metrics.requests.labels("bad_range").inc()
                return web.Response(status=416, headers={"Content-Range": f"bytes */{stored.size}", "ETag": etag})
            return await self._send(request, stored, _Transfer(client, package_request.package, byte_range))
        finally:
            self._cache.unpin(stored)

    async def _pin(self, package: package_client.Package) -> cache.CachedPackage:
        loop = asyncio.get_running_loop()
        for _ in range(2):  # Again if it was evicted or found corrupt between the two steps.
            name = await self._downloader.ensure(package)
            pinning = loop.run_in_executor(self._readers, self._cache.pin, name)
            try:
                stored = await asyncio.shield(pinning)
            except asyncio.CancelledError:
                pinning.add_done_callback(self._unpin)
                raise
            if stored is not None:
                return stored
        raise PendingError("the package was evicted for another one", retry_after=1)

    def _unpin(self, pinning: asyncio.Future[cache.CachedPackage | None]) -> None:
        if not pinning.cancelled() and pinning.exception() is None and (stored := pinning.result()) is not None:
            self._cache.unpin(stored)

    # ------------------------------------------------------------------- sending

    async def _send(
        self, request: web.BaseRequest, stored: cache.CachedPackage, transfer: _Transfer
    ) -> web.StreamResponse:
        byte_range = transfer.range
        whole = byte_range == http_requests.ByteRange(0, stored.size)
        response = web.StreamResponse(status=200 if whole else 206, headers=_headers(stored, byte_range))
        response.content_length = byte_range.end - byte_range.first
        if request.method == "HEAD":
            self._metrics.requests.labels("head").inc()
            await response.prepare(request)
            return response
        await self._acquire_slot()
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
            # The response has begun: the client must see that it is incomplete.
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._slots.release()
            self._log_transfer(transfer, time.perf_counter() - started)
        return response

    async def _acquire_slot(self) -> None:
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise BusyError("all transfer slots are in use", retry_after=2) from None

    async def _stream(
        self, request: web.BaseRequest, response: web.StreamResponse, stored: cache.CachedPackage, transfer: _Transfer
    ) -> None:
        loop, limits, offset = asyncio.get_running_loop(), self._limits, transfer.range.first
        timeout = limits.grace_seconds + (transfer.range.end - offset) / limits.least_bytes_per_second
        with _opened(stored) as file:
            await response.prepare(request)
            async with asyncio.timeout(timeout):
                while offset < transfer.range.end:
                    size = min(limits.block_bytes, transfer.range.end - offset)
                    block = await loop.run_in_executor(self._readers, os.pread, file, size, offset)
                    if not block:
                        raise OSError(f"{stored.path}: file is shorter than before")
                    async with asyncio.timeout(limits.stall_seconds):
                        await response.write(block)
                    offset += len(block)
                    transfer.sent += len(block)
                async with asyncio.timeout(limits.stall_seconds):
                    await response.write_eof()

    def _log_transfer(self, transfer: _Transfer, seconds: float) -> None:
        self._metrics.requests.labels(transfer.outcome).inc()
        self._metrics.sent_bytes.inc(transfer.sent)
        package = transfer.package
        log.info(
            "package sent" if transfer.outcome in ("ok", "partial") else "package transfer incomplete",
            extra=logs.fields(
                outcome=transfer.outcome,
                client=transfer.client,
                dynakube=package.dynakube,
                version=package.version,
                arch=package.machine,
                first=transfer.range.first or None,
                bytes=transfer.sent,
                seconds=round(seconds, 3),
            ),
        )


@contextlib.contextmanager
def _opened(stored: cache.CachedPackage) -> Iterator[int]:
    file = os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def _headers(stored: cache.CachedPackage, byte_range: http_requests.ByteRange) -> dict[str, str]:
    digest = base64.b64encode(binascii.unhexlify(stored.sha256)).decode()
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{stored.sha256}"',
        "Accept-Ranges": "bytes",
        # RFC 9530: of the whole package, also for a range.
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private",
    }
    if byte_range != http_requests.ByteRange(0, stored.size):
        headers["Content-Range"] = f"bytes {byte_range.first}-{byte_range.end - 1}/{stored.size}"
    return headers


def _error_response(error: PackagesError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 405:
        headers["Allow"] = "GET, HEAD"
    response = _json(error.status, {"error": {"code": error.status, "message": str(error)}}, headers)
    if error.status in (400, 401, 405):
        response.force_close()  # Further data on this connection is not read.
    return response


def _json(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), headers=headers, content_type="application/json")
