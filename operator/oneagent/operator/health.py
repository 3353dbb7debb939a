"""`/livez`, `/readyz` and `/metrics`, for kubelet and Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import prometheus_client
from aiohttp import web


@asynccontextmanager
async def serving(address: tuple[str, int], ready: Callable[[], str]) -> AsyncIterator[None]:
    """Serve while in use; `ready` says why not, or ''."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(_: web.Request) -> web.Response:
        content = prometheus_client.generate_latest()
        return web.Response(body=content, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        host, port = address
        await web.TCPSite(runner, host or None, port).start()
        yield
    finally:
        await runner.cleanup()
