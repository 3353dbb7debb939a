"""The endpoint as the operator's process sees it: started, told what is wanted, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from oneagent.common import logs
from oneagent.common.http import download, server_tls
from oneagent.operator.package_server import cache, handlers
from oneagent.operator.package_server.authentication import Callers, Reviewer
from oneagent.operator.package_server.downloader import Fetches, Wanted
from oneagent.operator.package_server.metrics import PackageMetrics

log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 8190
_HEADERS: Final = 32
_LINE_BYTES: Final = 2048
_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class Settings:
    folder: Path
    """For packages; of this replica alone."""
    budget_bytes: int = 4 << 30
    host: str | None = None
    """None: all addresses."""
    port: int = 8443
    connections: int = 1024
    """More are closed at once."""
    idle_seconds: float = 15.0
    """A connection without a whole request for so long is closed."""
    handshake_seconds: float = 10.0
    drain_seconds: float = 30.0
    """What transfers get to end when the process is to stop."""
    renew_seconds: float = 10.0
    """How often the certificate is looked at."""
    limits: handlers.Limits = field(default_factory=handlers.Limits)
    downloads: download.Limits = download.DEFAULT_LIMITS


class Certificates(Protocol):
    """Who has the certificate."""

    async def current(self) -> server_tls.Pair:
        """The newest pair; `UnusableError` while there is none. Asked every few seconds, so it is quick."""
        ...


class PackageEndpoint:
    """For one event loop. `want` may be called before `start`, and as often as something changes."""

    def __init__(
        self,
        settings: Settings,
        reviewer: Reviewer,
        certificates: Certificates,
        metrics: PackageMetrics,
        *,
        unknown: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`unknown` is called when somebody asks for a version that nobody is known to want."""
        self._settings = settings
        self._metrics = metrics
        self._certificates = certificates
        self._tls = server_tls.ServerTls(metrics.certificate_expiry.set)
        self._shelf = cache.PackageCache(settings.folder, settings.budget_bytes, metrics)
        self._fetches = Fetches(self._shelf, metrics, settings.limits.wait_seconds, settings.downloads, unknown)
        self._answers = handlers.Answers(
            Callers(reviewer, metrics, now), self._fetches, self._shelf, metrics, settings.limits
        )
        self.port = settings.port
        """Where it listens, after `start`: port 0 takes a free one."""
        self._protocols: web.Server | None = None
        self._server: asyncio.Server | None = None
        self._renewing: asyncio.Task[None] | None = None

    def want(self, wanted: Iterable[Wanted]) -> None:
        """These versions can be had from now on, and no others."""
        self._fetches.want(wanted)

    async def start(self) -> None:
        """Listen; `ShelfError` or `UnusableError` if that has no use, `OSError` if the port is not to be had."""
        await self._renew()
        if trouble := self._tls.trouble(time.time()):
            raise server_tls.UnusableError(trouble)
        await asyncio.to_thread(self._shelf.open)
        try:
            self._protocols = web.Server(
                self._answers,
                handler_cancellation=True,
                access_log=None,
                keepalive_timeout=self._settings.idle_seconds,
                lingering_time=0,
                max_line_size=_LINE_BYTES,
                max_field_size=_HEADER_BYTES,
                max_headers=_HEADERS,
            )
            self._server = await asyncio.get_running_loop().create_server(
                self._connection,
                self._settings.host,
                self._settings.port,
                family=socket.AF_UNSPEC,
                backlog=_BACKLOG,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._settings.handshake_seconds,
                ssl_shutdown_timeout=self._settings.handshake_seconds,
            )
        except BaseException:
            self._shelf.close()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        self._renewing = asyncio.create_task(self._keep_renewing(), name="package certificate")
        log.info("packages are served", extra=logs.facts(port=self.port, folder=self._settings.folder))

    async def stop(self) -> None:
        """Take no more connections, let transfers end, for a limited time, and give the folder free."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        if self._server is not None:
            self._server.close()
        # Who waits for a download is told to come back, to another replica as it may be.
        await self._fetches.stop()
        if self._protocols is not None:
            self._protocols.pre_shutdown()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_seconds):
                    while self._answers.active:  # noqa: ASYNC110 - it happens once, and nobody is in a hurry
                        await asyncio.sleep(0.05)
            await self._protocols.shutdown(1.0)
        self._answers.close()
        self._shelf.close()

    def _connection(self) -> asyncio.Protocol:
        assert self._protocols is not None
        if len(self._protocols.connections) >= self._settings.connections:
            return _Refused()
        return self._protocols()

    async def _renew(self) -> None:
        newest = await self._certificates.current()
        self._tls.take(lambda: newest)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._settings.renew_seconds)
            try:
                await self._renew()
            except server_tls.UnusableError as error:
                self._tls.refuse(str(error))
            except Exception:
                log.exception("the certificate can't be renewed")


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
