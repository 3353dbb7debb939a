"""The package server: its listener, certificate and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from oneagent.common import logs
from oneagent.common.http import download, server_tls
from oneagent.common.http.bounded_listener import BoundedListener
from oneagent.common.http.connections import ConnectionLimits
from oneagent.operator.package_server import cache, handlers
from oneagent.operator.package_server.authentication import Authenticator, Reviewer
from oneagent.operator.package_server.downloader import DesiredVersion, Downloader
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 8190
_HEADERS: Final = 32
_LINE_BYTES: Final = 2048
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class PackageServerSettings:
    directory: Path
    """For packages; used by this replica alone."""
    budget_bytes: int = 4 << 30
    host: str | None = None
    """None: all addresses."""
    port: int = 8443
    connections: int = 1024
    """Limit; see `common.http.connections` for what becomes of further ones."""
    idle_seconds: float = 10.0
    """Time after which a connection without a complete request is closed; the handshake is part of it."""
    drain_seconds: float = 30.0
    """Time for running transfers at shutdown."""
    renew_seconds: float = 10.0
    """Interval between checks of the certificate."""
    limits: handlers.RequestLimits = field(default_factory=handlers.RequestLimits)
    downloads: download.DownloadLimits = download.DEFAULT_LIMITS


class Certificates(Protocol):
    async def current(self) -> server_tls.Pair:
        """Return the newest pair; `UnusableError` while there is none. Called every few seconds."""
        ...


class PackageServer:
    """For one event loop. `set_desired` may be called at any time, also before `start`."""

    def __init__(
        self,
        settings: PackageServerSettings,
        reviewer: Reviewer,
        certificates: Certificates,
        metrics: PackageMetrics,
        *,
        on_unknown: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_unknown` is called for a request for a version that is not in the desired ones."""
        self._settings = settings
        self._metrics = metrics
        self._certificates = certificates
        self._tls = server_tls.ServerTls(metrics.certificate_expiry.set)
        self._cache = cache.PackageCache(settings.directory, settings.budget_bytes, metrics)
        self._downloader = Downloader(
            self._cache, metrics, settings.limits.wait_seconds, settings.downloads, on_unknown
        )
        self._handler = handlers.RequestHandler(
            Authenticator(reviewer, metrics, now, elapsed), self._downloader, self._cache, metrics, settings.limits
        )
        self.port = settings.port
        """Port of the listener after `start`; 0 chooses a free one."""
        self._protocols: web.Server | None = None
        limits = ConnectionLimits(settings.connections, settings.idle_seconds, settings.idle_seconds, _BACKLOG)
        self._listener = BoundedListener(limits, self._tls.context)
        self._renewing: asyncio.Task[None] | None = None

    def set_desired(self, versions: Iterable[DesiredVersion]) -> None:
        """Replace the versions that can be requested."""
        self._downloader.set_desired(versions)

    async def start(self) -> None:
        """Listen; `CacheError`, `UnusableError`, or `OSError` if the port is in use."""
        await self._renew()
        if trouble := self._tls.problem(time.time()):
            raise server_tls.UnusableCertificateError(trouble)
        await asyncio.to_thread(self._cache.open)
        try:
            self._protocols = web.Server(
                self._answer,
                handler_cancellation=True,
                access_log=None,
                auto_decompress=False,
                lingering_time=0,
                max_line_size=_LINE_BYTES,
                max_field_size=_HEADER_BYTES,
                max_headers=_HEADERS,
            )
            self.port = await self._listener.start(self._protocols, self._settings.host or "", self._settings.port)
        except BaseException:
            self._cache.close()
            raise
        self._renewing = asyncio.create_task(self._renew_periodically(), name="package certificate")
        log.info("package server started", extra=logs.fields(port=self.port, directory=self._settings.directory))

    async def stop(self) -> None:
        """Refuse connections, wait for transfers within the limit, and unlock the directory."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        await self._listener.stop()
        # Requests that wait for a download get `Retry-After`, maybe for another replica.
        await self._downloader.stop()
        if self._protocols is not None:
            self._protocols.pre_shutdown()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_seconds):
                    while self._handler.active:  # noqa: ASYNC110 - once, at shutdown
                        await asyncio.sleep(0.05)
            await self._protocols.shutdown(1.0)
        self._handler.close()
        self._cache.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._listener.answering(request):
            return await self._handler(request)

    async def _renew(self) -> None:
        newest = await self._certificates.current()
        self._tls.load(lambda: newest)

    async def _renew_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._settings.renew_seconds)
            try:
                await self._renew()
            except server_tls.UnusableCertificateError as error:
                self._tls.reject(str(error))
            except Exception:
                log.exception("certificate renewal failed")
