"""What kubelet and Prometheus ask of the webhook, on a port of its own and without TLS."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from aiohttp import web
from prometheus_client import CollectorRegistry


class Health:
    """`/livez`, `/readyz` and `/metrics`."""

    def __init__(self, host: str, port: int, ready: Callable[[], str], registry: CollectorRegistry) -> None:
        """`ready` says why not, or ''."""
        self._host, self.port, self._ready, self._registry = host, port, ready, registry
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        routes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        application.add_routes(web.get(path, handler) for path, handler in routes.items())
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host or None, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        content = prometheus_client.generate_latest(self._registry)
        return web.Response(body=content, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
