"""`/livez`, `/readyz` and `/metrics` for kubelet and Prometheus, without TLS, on aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry

from oneagent.common import prometheus
from oneagent.common.http import connections
from oneagent.common.http.bounded_listener import BoundedListener
from oneagent.common.http.connections import ConnectionLimits


class HealthServer:
    """Serves from `start` to `stop`, or while in use as a context manager."""

    def __init__(
        self,
        host: str,
        port: int,
        problem: Callable[[], str],
        registry: CollectorRegistry = prometheus_client.REGISTRY,
        limits: ConnectionLimits = connections.DEFAULT,
    ) -> None:
        """`problem` returns the reason why the process is not ready, or ''."""
        self._host, self.port, self._problem, self._registry, self._limits = host, port, problem, registry, limits
        self._runner: web.AppRunner | None = None
        self._listener: BoundedListener | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._listener = BoundedListener(self._limits)
        application = web.Application(middlewares=[self._listener.middleware()])
        routes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        application.add_routes(web.get(path, handler) for path, handler in routes.items())
        # No request has a body here, so none is waited for.
        self._runner = web.AppRunner(
            application, access_log=None, auto_decompress=False, lingering_time=0, shutdown_timeout=1.0
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self.port = await self._listener.start(self._runner.server, self._host, self.port)

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": prometheus.CONTENT_TYPE}
        return web.Response(body=prometheus.render(self._registry).encode(), headers=headers)
